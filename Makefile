# `make help` lists the targets.

FUZZTIME ?= 20s
FUZZJOBS ?= 1
# Further flags for each `go test -fuzz`.
FUZZFLAGS ?=
# The packages whose fuzz targets run; CI takes those that read what comes from outside the machine, from another
# process, and the file.
FUZZPKGS ?= ./...
STRESSTIME ?= 5m
# -short: the attacks that are quick. -run 'GROUP/NAME': some of them.
ATTACKFLAGS ?=
# Further flags for `go test`; CI says -count=1. The last of a flag wins.
TESTFLAGS ?=
# For each package. go test's own 10 minutes are too short where others use the machine.
TESTLIMIT   := -timeout=35m

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
VERSION     := $(shell git describe --tags --always --abbrev=12 --dirty 2>/dev/null)
COMMIT      := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS     := $(if $(VERSION),-X main.version=$(VERSION)) $(if $(COMMIT),-X main.commit=$(COMMIT))
# testdata/clients is a module of its own, so that client libraries stay out of ours.
MODULES     := . testdata/clients

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## serve testdata/instances/web-1.toml on http://127.0.0.1:1338 and /run/metadata
	bin/imdsfs serve -c testdata/instances/web-1.toml

.PHONY: build
build: ## build bin/imdsfs
	go build -ldflags '$(LDFLAGS)' -o bin/imdsfs ./cmd/imdsfs

.PHONY: test
test: ## install what the tests talk to (as root on Debian), then run every test, whichever fails
	.ci/deps
	$(MAKE) --no-print-directory build
	@failed=0; \
	run() { echo "go test -race $(TESTLIMIT) $(TESTFLAGS) ./... in $$PWD"; go test -race $(TESTLIMIT) $(TESTFLAGS) ./... || failed=1; }; \
	run; \
	cd testdata/clients; export IMDSFS_BIN='$(CURDIR)/bin/imdsfs'; run; \
	exit $$failed

# Where packages go, and which are built.
DIST        := dist
ARCHES      := amd64 arm64
FORMATS     := deb rpm

.PHONY: package
package: ## build static binaries, .deb and .rpm into dist/, the same bytes for the same commit
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' NFPM='$(NFPM)' DIST='$(DIST)' ARCHES='$(ARCHES)' FORMATS='$(FORMATS)' contrib/package/build

.PHONY: bench
bench: ## measure both doors (as root, on a quiet machine), check the bounds, write testdata/bench/README.md
	go run ./testdata/bench -readme testdata/bench/README.md
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: stress
stress: ## read the mount in every way while it changes, for STRESSTIME (5m), publish 100,000 times, trouble the packaged service, exchange paths for 10 s each, flood it (as root, on a quiet machine)
	IMDSFS_STRESS=$(STRESSTIME) go test -count=1 -p 1 -timeout 1h -v -run 'TestNoProcessSees|TestWhatHTTPHasShown|TestPublishesLeave|TestServiceSurvives|TestRootFollowsNoLink|TestAnAdversary|TestRunTimeAndState|TestNothingIsReadThatIsSwappedIn|TestRefusedConnections' \
		./fs ./cmd/imdsfs ./contrib/package ./source/tomlfile

.PHONY: attack
attack: build ## attack bin/imdsfs as others could, with the table of SECURITY.md (as root); ATTACKFLAGS=-short takes less than 45 s
	go test $(TESTLIMIT) $(TESTFLAGS) ./testdata/attack
	go run ./testdata/attack $(ATTACKFLAGS)

.PHONY: lint
lint: ## gofmt, go vet, staticcheck and go mod tidy, in both modules; changes nothing
	@files=$$(gofmt -l .) && if [ -n "$$files" ]; then echo "not formatted, run gofmt -w on:"; echo "$$files"; exit 1; fi
	@set -e; for dir in $(MODULES); do ( cd $$dir; echo "lint $$dir"; \
		go vet ./...; go run $(STATICCHECK) ./...; go mod tidy -diff ); done
	go vet ./testdata/bench/... ./testdata/attack && go run $(STATICCHECK) ./testdata/bench/... ./testdata/attack
	go vet -tags docs ./cmd/imdsfs && go run $(STATICCHECK) -tags docs ./cmd/imdsfs

# At the end of its time a run may fail with "context deadline exceeded" and no failing input: go.dev/issue/75804.
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s), FUZZJOBS (1) at a time
	@set -e; packages=$$(go list $(FUZZPKGS)); targets=; \
	for pkg in $$packages; do \
		list=$$(go test -list '^Fuzz' $$pkg); \
		targets="$$targets $$(echo "$$list" | sed -n "s#^Fuzz.*#$$pkg &#p")"; \
	done; \
	echo $$targets | xargs -n 2 -P $(FUZZJOBS) sh -c 'echo "fuzz $$0 $$1 $(FUZZTIME)"; \
		fuzz() { out=$$(go test -run "^$$" -fuzz "^$$2\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $(FUZZFLAGS) $$1 2>&1); }; \
		fuzz $$0 $$1 || case $$out in \
			*"Failing input"*) false;; \
			*"context deadline exceeded"*) echo "fuzz $$0 $$1 again: go.dev/issue/75804"; fuzz $$0 $$1;; \
			*) false;; \
		esac && echo "$$out" | tail -1 || { echo "$$out"; exit 255; }'

.PHONY: clean
clean: ## remove what was built and unpacked here
	rm -rf bin dist .deps testdata/clients/node_modules
