package fsm

// Cluster versions, each with what it opened. A command's gate is commandInfo.since; the version that
// counts is the one in the machine at that log index, never the binary's.
//
//	1  everything of the first release
//	2  SetNodeAttribute; incarnations bounded for each node; Node.Index as a condition of RegisterNode;
//	   IfIndex as a condition of an ACTIVATE; refused claims bounded in the history; how a session ended
//	   (LoggedOut, RenameRefused); a refused RESERVE in the history, and no conflict about a known leftover;
//	   no mailbox for a unified server of what others have deleted
//
// A binary speaks two of them, so that one can be upgraded to the next while both run.
const MinVersion = 1

// What is no command of its own has its gate here.
const (
	versionNodeBound   = 2
	versionNodeIndex   = 2
	versionActivateIf  = 2
	versionFairHistory = 2
	versionSessionEnd  = 2
	versionRefusals    = 2
	versionOutdated    = 2
)
