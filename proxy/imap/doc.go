// Package imap is the IMAP frontend.
package imap
