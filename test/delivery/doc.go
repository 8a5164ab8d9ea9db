// Package delivery asks whether mail arrives: real MTAs and mail programs at our frontends, real Cyrus
// servers behind them, and processes killed at random in between.
//
// Its tests have the build tag cyrus.
package delivery
