// Package conformance plays MUPDATE (RFC 3656) against whole nodes: the real protocol server in front
// of the real state machine, one node or three with a learner, over real connections. The dialogues are
// in testdata; rig_test.go says how they are written. What needs hours is proven on the state machine's
// own clock, in package fsm.
package conformance
