# One habit each; README.md says what they are for. Only Go is needed unless a target says more.
export GOFLAGS += -tags=hashicorpmetrics
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS = -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s

# Packages that talk to many goroutines at once and are cheap enough to run with the race detector.
RACE = ./fsm/... ./mupdate/... ./lmtp/... ./proxy/... ./internal/...

# What the stories with real Cyrus and real clients need from Debian.
DEBIAN = cyrus-imapd cyrus-murder cyrus-pop3d cyrus-clients cyrus-admin sasl2-bin libsasl2-modules \
	libsasl2-modules-db swaks curl python3-minimal util-linux

.PHONY: build demo test test-deps test-cyrus bench fuzz lint docs check check-rest clean

build: ## bin/murderd and bin/murderctl, static, with the version in them
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

demo: build ## a cluster on this machine, with a guided tour
	@d=$$(mktemp -d) && bin/murderd dev --dir "$$d" --tour; s=$$?; rm -rf "$$d"; exit $$s

test: ## unit, property, transcript, in-process cluster and real-process tests
	go test -race $(RACE)
	go test ./cluster/... ./cmd/... ./test/...

test-deps: ## Debian packages for test-cyrus; needs root
	apt-get install -y -qq --no-install-recommends $(DEBIAN)

test-cyrus: build ## the same stories against real Cyrus; needs root and test-deps
	go test -count=1 -timeout 25m -tags 'hashicorpmetrics cyrus' ./test/cyrus/...

bench: ## benchmarks, each answering a question; beside Cyrus where it is installed
	go test -run '^$$' -bench . -benchtime 2s ./fsm/... ./mupdate/... ./lmtp/... ./proxy/... ./test/bench/...

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(go list ./...); do for t in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		echo "$$p $$t"; go test -run '^$$' -fuzz "^$$t$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

lint: ## gofmt, vet, go.mod tidy, and the tagged files too
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "not gofmt'ed: $$bad"; exit 1; }
	go vet ./...
	go vet -tags 'hashicorpmetrics cyrus' ./test/...
	go mod tidy -diff

docs: build ## man pages, shell completion, configuration reference
	bin/murderd docs docs/generated && bin/murderctl docs docs/generated

check: test check-rest ## all that CI runs

check-rest: lint build
	@d=$$(mktemp -d) && bin/murderd dev --dir "$$d" --tour --once; s=$$?; rm -rf "$$d"; exit $$s
	$(MAKE) test-cyrus

clean:
	rm -rf bin
