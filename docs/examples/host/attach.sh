#!/bin/sh
# The client's end on a host or a router without Kubernetes. Run it again after a change: it replaces without a gap.
set -eu
exec sfunnel attach -i "${1:-eth0}" --end client --rules "$(dirname "$0")/ruleset"
