# One static binary and nothing else. Build the binary first: docs/container.md says how.
FROM scratch
LABEL org.opencontainers.image.title="sfunnel" \
      org.opencontainers.image.description="Funnels several ports through one: compiles rules to eBPF, attaches them to tc and exits" \
      org.opencontainers.image.source="https://github.com/datahangar/sfunnel" \
      org.opencontainers.image.licenses="BSD-2-Clause OR GPL-2.0-only"
COPY LICENSE.md LICENSE.BSD-2-Clause LICENSE.GPL-2.0 /
# amd64 or arm64: the builder says.
ARG TARGETARCH
COPY dist/${TARGETARCH}/sfunnel /sfunnel
ENTRYPOINT ["/sfunnel"]
