package mbox

import (
	"cmp"
	"fmt"
	"strings"
)

// Order is a sort order of mailbox names. It is part of the protocol: ctl_mboxlist walks the answer
// to LIST and its own database in step, and a Cyrus slave merges an UPDATE dump the same way, so
// rows must come in the order of that client's own database.
//
// Which Cyrus has which has been measured with names of all octets that sort differently, also with
// virtual domains (test/cyrus: ListOrder): 3.4.9 has OrderOctet, and with improved_mboxlist_sort
// OrderMboxsort; 3.6.1, 3.8.7, 3.10.3 and 3.12.3 have OrderDB, whatever improved_mboxlist_sort says.
type Order uint8

const (
	// OrderDB is the order of Cyrus 3.6 and later, and that of our own copy: the domain and 0x1D,
	// then the name with "." below every printable octet and "^" in the place of ".".
	OrderDB Order = iota
	// OrderOctet is the dotted name in plain octets: Cyrus up to 3.4 with improved_mboxlist_sort off.
	OrderOctet
	// OrderMboxsort is Cyrus up to 3.4 with improved_mboxlist_sort on: "." sorts below every other
	// octet.
	OrderMboxsort
)

// ParseOrder reads the name of an order as configuration files spell it.
func ParseOrder(s string) (Order, error) {
	switch s {
	case "dbname", "":
		return OrderDB, nil
	case "octet":
		return OrderOctet, nil
	case "mboxsort":
		return OrderMboxsort, nil
	}
	return 0, fmt.Errorf("unknown sort order %q: want dbname, octet or mboxsort", s)
}

func (o Order) String() string {
	switch o {
	case OrderOctet:
		return "octet"
	case OrderMboxsort:
		return "mboxsort"
	}
	return "dbname"
}

// Compare returns -1, 0 or 1. Two different names never compare equal.
func (o Order) Compare(a, b Name) int {
	switch o {
	case OrderOctet:
		return strings.Compare(string(a), string(b))
	case OrderMboxsort:
		return compareMapped(string(a), string(b), mboxsortOctet)
	default:
		return compareDB(string(a), string(b))
	}
}

// compareDB compares without building keys: it is the comparison of the map's tree.
func compareDB(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == len(a) && i == len(b) {
		return 0
	}
	// Whether an octet lies in the domain depends on a "!" that may come later.
	ka, kb := dbOctet(a, i), dbOctet(b, i)
	if ka == kb {
		// The common prefix may be a domain in one name and not in the other.
		return compareDBSlow(a, b)
	}
	if strings.IndexByte(a, '!') != strings.IndexByte(b, '!') {
		return compareDBSlow(a, b)
	}
	return cmp.Compare(ka, kb)
}

func compareDBSlow(a, b string) int {
	da, db := strings.IndexByte(a, '!'), strings.IndexByte(b, '!')
	for i := 0; i < len(a) || i < len(b); i++ {
		ka, kb := dbOctetIn(a, i, da), dbOctetIn(b, i, db)
		if ka != kb {
			return cmp.Compare(ka, kb)
		}
	}
	return strings.Compare(a, b)
}

func dbOctet(s string, i int) int { return dbOctetIn(s, i, strings.IndexByte(s, '!')) }

// dbOctetIn gives the sort value of octet i, with the domain's end known; -1 past the end.
func dbOctetIn(s string, i, bang int) int {
	if i >= len(s) {
		return -1
	}
	c := s[i]
	if i < bang {
		return int(c)
	}
	switch {
	case i == bang:
		return 0x1d
	case c == '.':
		return 0x1f
	case c == '^':
		return '.'
	}
	return int(c)
}

// mboxsortOctet lets "." sort below every other octet that a name can have (Cyrus 3.4: bsearch.c,
// convert_to_compare, which also moves the control characters up to make room).
func mboxsortOctet(c byte) int {
	switch {
	case c == '\t' || c == '\n':
		return 1
	case c == '.':
		return 2
	case 1 <= c && c <= 8:
		return int(c) + 2
	}
	return int(c)
}

func compareMapped(a, b string, value func(byte) int) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			if c := cmp.Compare(value(a[i]), value(b[i])); c != 0 {
				return c
			}
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}
