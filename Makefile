# One habit each; see README.md.
export GOFLAGS += -tags=hashicorpmetrics
export CGO_ENABLED ?= 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS = -s -w -X main.version=$(VERSION)

.PHONY: build test lint

build: ## bin/murderd and bin/murderctl, static
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

test: ## everything that needs Go only
	go test ./...

lint:
	gofmt -l . | (! grep .)
	go vet ./...
