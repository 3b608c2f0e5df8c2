# Sourced by the verbs: where the state of a cluster lives, and which processes are its own.
# shellcheck shell=bash

export PENSTOCK_CACHE=${PENSTOCK_CACHE:-$HOME/.cache/penstock}
export PENSTOCK_CLUSTER=${PENSTOCK_CLUSTER:-$PENSTOCK_CACHE/cluster}
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
tools=$here/../tools
# Groups of the cluster's processes; two clusters never share one.
group=penstock-$(sha256sum <<<"$PENSTOCK_CLUSTER" | cut -c1-8)
nodes=(n1 n2)

# Time at which a process started, so that a number that was given to another process is noticed.
start_time() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null; }

# The process that holds everything else (an `unshare` whose end kills all); fails when it is not there.
holder() {
    local pid since
    read -r pid since 2>/dev/null <"$PENSTOCK_CLUSTER/holder" || return 1
    [ "$(start_time "$pid")" = "$since" ] || return 1
    echo "$pid"
}

child_of() { pgrep -P "$1" | head -1; }

# First process inside of the control plane's namespaces.
control_plane() { child_of "$(holder)"; }

# The holder of a node's namespaces, and the first process in them.
node_holder() { pgrep -P "$(control_plane)" -f "node-init $1\$" | head -1; }
node_process() { child_of "$(node_holder "$1")"; }

need_cluster() {
    holder >/dev/null || { echo "no cluster runs in $PENSTOCK_CLUSTER; start one with e2e/cluster/up" >&2; exit 1; }
}
