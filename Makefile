# One habit each; README.md says what they are for. Only Go is needed unless a target says more.
export GOFLAGS += -tags=hashicorpmetrics
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS = -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s
MAILBOXES ?= 5000000
MESSAGES ?= 100000

# Packages that talk to many goroutines at once and are cheap enough to run with the race detector.
RACE = ./fsm/... ./mupdate/... ./lmtp/... ./proxy/... ./internal/...

# What the stories with real Cyrus and real clients need from Debian.
DEBIAN = cyrus-imapd cyrus-murder cyrus-pop3d cyrus-clients cyrus-admin sasl2-bin libsasl2-modules \
	libsasl2-modules-db swaks curl python3 util-linux isync offlineimap3 neomutt bsdutils \
	postfix fetchmail mpop getmail6 sieve-connect libgnutls-dane0 libidn12

# Debian lets Exim stand beside no other MTA, so it is unpacked, not installed.
EXIM = bin/exim/usr/sbin/exim4

.PHONY: help build demo demo-once test test-deps test-cyrus test-chaos test-noloss bench bench-map fuzz lint docs package image check check-rest clean

build: ## bin/murderd and bin/murderctl, static, with the version in them
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 14

demo: build ## a cluster on this machine, with a guided tour
	@d=$$(mktemp -d) && bin/murderd dev --dir "$$d" --tour; s=$$?; rm -rf "$$d"; exit $$s

demo-once: build ## the tour alone: fails unless every step is as promised
	@d=$$(mktemp -d) && bin/murderd dev --dir "$$d" --tour --once; s=$$?; rm -rf "$$d"; exit $$s

test: ## unit, property, transcript, in-process cluster and real-process tests
	go test -race $(RACE)
	go test ./cmd/...
	go test -p 1 ./cluster/... ./test/... # whole clusters: one package at a time

test-deps: ## Debian packages for test-cyrus; needs root
	apt-get install -y -qq --no-install-recommends $(DEBIAN)
	@$(MAKE) $(EXIM)

$(EXIM):
	@d=$$(mktemp -d) && chmod 755 $$d && (cd $$d && apt-get download -qq exim4-daemon-light) && \
		mkdir -p bin/exim && dpkg -x $$d/*.deb bin/exim && rm -rf $$d

test-cyrus: build ## the same stories against real Cyrus; needs root, which installs what is missing
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		! { [ -e $(EXIM) ] && dpkg -s $(DEBIAN) >/dev/null 2>&1; }; then $(MAKE) test-deps; fi
	go test -count=1 -p 1 -timeout 15m -tags 'hashicorpmetrics cyrus' ./test/cyrus/... ./test/imapcyrus/... \
		./test/delivery/... ./test/clients/...

test-chaos: ## real processes under faults, their histories checked for linearizability: a fixed set; root for networks and full disks; SOAK=60m: one storm for so long
	@[ "$$(id -u)" = 0 ] || echo "Not root: no network is cut, and no disk is filled."
	MURDER_CHAOS=1 MURDER_SOAK=$(SOAK) go test -count=1 -v $(if $(SOAK),-timeout 0 -run Storm,-timeout 10m -skip '^TestHistory$$') ./test/chaos/

test-noloss: build ## mail under kills of everything, until each message is where it belongs; MESSAGES=N, SEED=N; root and test-deps
	MURDER_REQUIRE_CYRUS=1 MURDER_MESSAGES=$(MESSAGES) MURDER_SEED=$(SEED) go test -count=1 -timeout 0 -v \
		-tags 'hashicorpmetrics cyrus' -run '^TestNothingIsLost$$' ./test/delivery/

bench: ## benchmarks, each answering a question; beside Cyrus where it is installed
	go test -run '^$$' -bench . -benchtime 2s ./fsm/... ./cluster/ ./mupdate/... ./lmtp/... ./proxy/... ./test/bench/... ./test/conformance/

bench-map: ## what a map of MAILBOXES (5000000) needs: memory for each, seconds to load it, to keep it, to read it back
	go test -run '^$$' -bench '^BenchmarkMap$$' -benchtime 1x -timeout 60m ./fsm/ -mailboxes $(MAILBOXES)

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(go list ./...); do for t in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		echo "$$p $$t"; go test -run '^$$' -fuzz "^$$t$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

lint: ## gofmt, vet, go.mod tidy, and the tagged files too
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "not gofmt'ed: $$bad"; exit 1; }
	go vet ./...
	go vet -tags 'hashicorpmetrics cyrus' ./test/...
	go mod tidy -diff

docs: build ## docs/config.md, docs/metrics.md, docs/imap-verbs.md; man pages and shell completion in docs/generated
	bin/murderd config reference >docs/config.md
	bin/murderd metrics-reference >docs/metrics.md
	bin/murderd imap-verbs >docs/imap-verbs.md
	bin/murderd docs docs/generated
	bin/murderctl docs docs/generated

package: docs ## dist/*.tar.gz, and a .deb where dpkg-deb is installed
	deploy/package $(VERSION)

image: build ## container image "murder"; needs podman or docker
	@tool=$$(command -v podman || command -v docker) || { echo "make image needs podman or docker"; exit 1; }; \
	"$$tool" build -q -t murder:$(VERSION) -f deploy/Containerfile .

check: test check-rest ## all that CI runs

check-rest: lint demo-once test-cyrus test-chaos ## what CI runs after make test

clean: ## remove what was built
	rm -rf bin dist docs/generated
