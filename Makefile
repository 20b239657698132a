# Each target is one command that you could type. `make help` lists them.
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo devel)
LDFLAGS  = -s -w -X main.version=$(VERSION)
GOFUMPT     = go run mvdan.cc/gofumpt@v0.9.2
STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOFLAGS_TEST ?= -race -count=1 -timeout 20m
WORK ?= dataplane
FUZZTIME ?= 20s
SOAK ?= 3m
CHURN ?= 5m

.PHONY: help build run test unit lint setup bench soak fuzz corpus clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

# grpcnotrace leaves out gRPC's trace page, which would link html/template: a fifth of mesh-proxy, 3 MB of its memory.
build: ## build bin/mesh and bin/mesh-proxy
	CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -ldflags '$(LDFLAGS)' -o bin/ ./cmd/mesh ./cmd/mesh-proxy

run: build ## run a whole mesh on this machine, with a demo (ARGS are mesh dev's)
	bin/mesh dev $(ARGS)

setup: ## install what the tests need (packages as root, test servers into the cache)
	e2e/setup.sh

test: setup lint unit ## everything: set-up, lint, all tests with the race detector

unit: build ## all tests with the race detector, without the set-up
	e2e/test.sh $(GOFLAGS_TEST)

lint: ## formatting, vet, staticcheck, shellcheck, yamllint
	e2e/lint.sh "$(GOFUMPT)" "$(STATICCHECK)"

bench: build ## side by side with the peers; WORK=http1-128 for one work, WORK=all for all
	go run ./bench -work $(WORK) -out bench/results.jsonl

soak: build ## the fault tests with outages of full length, the judges with attacks measured, configuration that changes for CHURN, adapters at full size, the event loops under load for SOAK, upgrades under the load of a busy host
	HOSTMESH_SOAK=$(SOAK) go test -count 1 -timeout 60m -run Fault -v ./e2e/
	HOSTMESH_SOAK=$(SOAK) go test -count 1 -timeout 90m -run 'Judge[A-Z]|CVEClass1[56]' -skip '^TestJudgeChurn$$' -v ./e2e/
	HOSTMESH_SOAK=$(CHURN) go test -count 1 -timeout 30m -run '^TestJudgeChurn$$' -v ./e2e/
	HOSTMESH_SOAK=$(SOAK) go test -count 1 -timeout 60m -run Soak -v ./proxy/
	HOSTMESH_SOAK=$(SOAK) go test -count 1 -timeout 30m -run UpgradeUnder -v ./cmd/mesh-proxy/
	HOSTMESH_SOAK=$(SOAK) go test -count 1 -p 1 -timeout 120m -run 'Suite|Contract' -v ./registry/...

fuzz: ## every fuzz target for FUZZTIME
	e2e/fuzz.sh $(FUZZTIME)

corpus: ## add the best of what make fuzz found to the fuzz targets' testdata, to be committed
	e2e/corpus.sh

clean: ## remove what was built
	rm -rf bin
