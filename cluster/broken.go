//go:build broken

package cluster

const unsound = true
