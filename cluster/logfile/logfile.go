// Package logfile looks into the log of a coordinator that is stopped. It changes nothing but in Compact.
package logfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"murder/fsm"
)

// lockLimit is how long to wait for a file that another process has open.
const lockLimit = time.Second

// Path is where the log is in a data directory.
func Path(dataDir string) string { return filepath.Join(dataDir, "raft", "raft.db") }

// Entry is one entry of the log.
type Entry struct {
	Index    uint64    `json:"index"`
	Term     uint64    `json:"term"`
	Kind     string    `json:"kind"` // command, noop, barrier, configuration
	At       time.Time `json:"at,omitzero"`
	Octets   int       `json:"octets"`
	Commands []Command `json:"commands,omitempty"`
	Damage   string    `json:"damage,omitempty"`
}

// Command is one command of an entry.
type Command struct {
	Type string `json:"type"`
	Name string `json:"name,omitempty"` // of the mailbox, the node or the setting
	What string `json:"what,omitempty"`
}

// File is an open log.
type File struct {
	store       *raftboltdb.BoltStore
	First, Last uint64
	Snapshot    uint64 // index of the newest snapshot beside the log; 0 if there is none
}

// Open opens the log of a data directory for reading.
func Open(dataDir string) (_ *File, err error) {
	path := Path(dataDir)
	debug.SetPanicOnFault(true)
	defer faults(&err)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("opening the log: %w: only the data directory of a coordinator has one", err)
	}
	store, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{ReadOnly: true, Timeout: lockLimit}})
	if err != nil {
		return nil, openError(path, err)
	}
	f := &File{store: store, Snapshot: newestSnapshot(dataDir)}
	if f.First, err = store.FirstIndex(); err == nil {
		f.Last, err = store.LastIndex()
	}
	if err != nil {
		store.Close()
		return nil, fmt.Errorf("reading the log %s: %w", path, err)
	}
	return f, nil
}

func openError(path string, err error) error {
	if errors.Is(err, bbolt.ErrTimeout) {
		return fmt.Errorf("opening the log %s: another process uses it: stop murderd first, or let the other murderctl end", path)
	}
	return fmt.Errorf("opening the log %s: %w", path, err)
}

// Close closes the file.
func (f *File) Close() error { return f.store.Close() }

// Each calls yield for every entry from an index on, damaged ones included, until it returns false.
func (f *File) Each(from uint64, yield func(Entry) bool) {
	var term uint64
	for index := max(f.First, from, 1); index <= f.Last && f.Last > 0; index++ {
		e := f.read(index)
		switch {
		case e.Kind == "" && e.Damage == missing && index <= f.Snapshot:
			term = 0 // a snapshot from the leader was put over a gap
			continue
		case e.Damage != "":
		case e.Term < term:
			e.Damage = fmt.Sprintf("it is of term %d, after one of term %d", e.Term, term)
		default:
			term = e.Term
		}
		if !yield(e) {
			return
		}
	}
}

const missing = "is missing"

func (f *File) get(index uint64, l *raft.Log) (err error) {
	debug.SetPanicOnFault(true)
	defer faults(&err)
	return f.store.GetLog(index, l)
}

func (f *File) read(index uint64) Entry {
	var l raft.Log
	if err := f.get(index, &l); err != nil {
		what := fmt.Sprintf("cannot be read: %v", err)
		if errors.Is(err, raft.ErrLogNotFound) {
			what = missing
		}
		return Entry{Index: index, Damage: what}
	}
	e := Entry{Index: index, Term: l.Term, Kind: kindOf(l.Type), At: l.AppendedAt, Octets: len(l.Data)}
	switch {
	case l.Index != index:
		e.Damage = fmt.Sprintf("says that it is entry %d", l.Index)
	case l.Term == 0:
		e.Damage = "is of no term"
	case l.Type == raft.LogCommand:
		envelopes, err := fsm.ReadEntry(l.Data)
		if err != nil {
			e.Damage = err.Error()
		}
		for _, x := range envelopes {
			e.Commands = append(e.Commands, commandOf(x.Command))
		}
	case l.Type == raft.LogConfiguration:
		e.Commands, e.Damage = configurationOf(l.Data)
	}
	return e
}

// faults makes an error of what a damaged file does to the library: it panics, or reads where the file has no
// pages. It is to be deferred.
func faults(err *error) {
	debug.SetPanicOnFault(false)
	if p := recover(); p != nil {
		*err = fmt.Errorf("the file is damaged: %v", p)
	}
}

// newestSnapshot is the index of the newest snapshot in a data directory, 0 if there is none.
func newestSnapshot(dataDir string) (newest uint64) {
	list, _ := filepath.Glob(filepath.Join(dataDir, "raft", "snapshots", "*", "meta.json")) // the pattern is good
	for _, path := range list {
		var meta struct{ Index uint64 }
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &meta) == nil {
			newest = max(newest, meta.Index)
		}
	}
	return newest
}

func kindOf(t raft.LogType) string {
	switch t {
	case raft.LogCommand:
		return "command"
	case raft.LogNoop:
		return "noop"
	case raft.LogBarrier:
		return "barrier"
	case raft.LogConfiguration:
		return "configuration"
	}
	return fmt.Sprintf("unknown kind %d", t)
}

func configurationOf(data []byte) (list []Command, damage string) {
	defer func() {
		if p := recover(); p != nil { // the library panics
			list, damage = nil, fmt.Sprint(p)
		}
	}()
	for _, s := range raft.DecodeConfiguration(data).Servers {
		list = append(list, Command{Type: s.Suffrage.String(), Name: string(s.ID), What: string(s.Address)})
	}
	return list, ""
}

// Sizes are those of the file before and after Compact.
type Sizes struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
}

// compactStep is how much goes into one transaction of the copy.
const compactStep = 16 << 20

// Compact writes the log anew: its file never shrinks by itself. The old file is there until the new one is whole.
// It fails while another process has the log open, murderd or one that compacts it, too.
func Compact(dataDir string) (s Sizes, err error) {
	debug.SetPanicOnFault(true)
	defer faults(&err)
	path := Path(dataDir)
	info, err := os.Stat(path)
	if err != nil {
		return s, fmt.Errorf("compacting the log: %w: only the data directory of a coordinator has one", err)
	}
	s.Before = info.Size()
	// Not read-only: of two that compact at once the second gets the lock when the first is done, or gives up, and
	// must not write over what has taken the place of its file.
	old, err := bbolt.Open(path, info.Mode().Perm(), &bbolt.Options{Timeout: lockLimit, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return s, openError(path, err)
	}
	defer old.Close()
	if now, err := os.Stat(path); err != nil || !os.SameFile(info, now) {
		return s, fmt.Errorf("compacting the log: %s was replaced meanwhile, as by another who compacts it: see whether it still needs to be done", path)
	}
	part := path + ".compact"
	defer os.Remove(part)
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("compacting the log: %w", err)
	}
	fresh, err := bbolt.Open(part, info.Mode().Perm(), &bbolt.Options{Timeout: lockLimit, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return s, fmt.Errorf("compacting the log: %w", err)
	}
	if err := errors.Join(bbolt.Compact(fresh, old, compactStep), fresh.Sync(), fresh.Close()); err != nil {
		return s, fmt.Errorf("compacting the log: %w", err)
	}
	if info, err = os.Stat(part); err != nil {
		return s, fmt.Errorf("compacting the log: %w", err)
	}
	s.After = info.Size()
	if err := keepOwner(path, part); err != nil {
		return s, fmt.Errorf("compacting the log: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return s, fmt.Errorf("compacting the log: %w", err)
	}
	return s, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
