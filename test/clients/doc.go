// Package clients lets mail programs that people use work through a frontend on a tree of folders that
// lies on two Cyrus backends, and compares what they see and leave behind with the backends themselves.
//
// The programs are Debian's python3, curl, isync (mbsync), offlineimap3 and neomutt (with bsdutils'
// script, because it wants a terminal). Nothing is installed by the tests: what is missing is named, and
// its test is skipped, or fails with MURDER_REQUIRE_CYRUS=1. Build tag cyrus.
package clients
