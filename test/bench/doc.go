// Package bench holds benchmarks, each of which answers a question that an operator might ask, with
// real murderd processes, and beside Cyrus 3.6 in the same run where its packages are installed.
//
//	go test -run '^$' -bench . ./test/bench               # the questions are the benchmarks' comments
//	go test -run '^$' -bench Find -count 6 ./test/bench | tee new.txt; benchstat -col /server new.txt
//
// After the benchmarks the ratios of one run are written as lines that begin with "#". Nothing here
// asserts a time: figures depend on the machine, ratios of one run much less.
package bench
