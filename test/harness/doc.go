// Package harness runs whole clusters of real murderd processes for tests: it builds the programs
// once, starts `murderd dev`, reads the addresses and process ids that it writes, and kills,
// pauses and restarts single nodes.
//
// A test package that uses it hands its TestMain over to Main.
package harness
