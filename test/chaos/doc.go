// Package chaos breaks whole clusters of real murderd processes while clients write down what they
// see, and checks afterwards that one map could have shown it to all of them, and that nothing that
// was promised is lost.
//
// One short story is told by every run of the tests, the others only when MURDER_CHAOS is set. Those
// that cut networks or fill disks need root on Linux: they run in namespaces of their own, which
// vanish with them.
package chaos
