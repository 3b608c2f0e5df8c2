# Sourced by the verbs: where the state of a cluster lives, which processes are its own, and how it ends.
# shellcheck shell=bash

export PENSTOCK_CACHE=${PENSTOCK_CACHE:-$HOME/.cache/penstock}
PENSTOCK_CLUSTER=$(realpath -m "${PENSTOCK_CLUSTER:-$PENSTOCK_CACHE/cluster}")
export PENSTOCK_CLUSTER
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
tools=$here/../tools
# Control group of the cluster's processes; two clusters never share one.
group=penstock-$(sha256sum <<<"$PENSTOCK_CLUSTER" | cut -c1-8)
nodes=(n1 n2)
# Everything that a cluster puts into its folder. Only this is removed: the folder is given by the environment, and may be
# somebody's home by mistake.
parts=(bin clients etcd log n1 n2 pki sample Corefile api-ready groups holder network scheduler.yaml)

# Time at which a process started, so that a number that was given to another process is noticed.
start_time() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null; }

# The process that holds everything else (an `unshare` that lives exactly as long as its child); fails when it is not there.
holder() {
    local pid since
    { read -r pid since <"$PENSTOCK_CLUSTER/holder"; } 2>/dev/null || return 1
    [ -n "$since" ] && [ "$(start_time "$pid")" = "$since" ] || return 1
    echo "$pid"
}

# The first process inside of the cluster's namespaces; with it all others end.
first_process() {
    local pid children
    pid=$(holder) || return 1
    # The file does not end with a newline, so `read` would call it incomplete.
    children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null)
    [ -n "$children" ] || return 1
    echo "${children%% *}"
}

need_cluster() {
    first_process >/dev/null || { echo "no cluster runs in $PENSTOCK_CLUSTER; start one with $here/up" >&2; exit 1; }
}

# One up or down of a cluster at a time.
lock_cluster() {
    mkdir -p "$PENSTOCK_CACHE"
    exec 8>"$PENSTOCK_CACHE/.$group.lock"
    flock 8
}

# Ends the cluster, if there is one, and removes all that it had except for the parts named as arguments.
end_cluster() {
    local part pid
    if pid=$(holder); then
        # The kernel lets the holder's wait return only when every process of the namespace is gone.
        kill -KILL "$(first_process || echo "$pid")"
        wait_until_gone "$pid"
    fi
    remove_groups
    name_strangers
    for part in "${parts[@]}"; do
        [[ " $* " == *" $part "* ]] || rm -rf --one-file-system "${PENSTOCK_CLUSTER:?}/$part"
    done
    rmdir "$PENSTOCK_CLUSTER" 2>/dev/null || true
}

wait_until_gone() {
    local since
    since=$(start_time "$1")
    while [ -n "$since" ] && [ "$(start_time "$1")" = "$since" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; do
        sleep 0.05
    done
}

# Deepest first; a group whose last process is still ending is busy for a moment.
remove_groups() {
    local groups=()
    for _ in {1..100}; do
        mapfile -t groups < <(find /sys/fs/cgroup -depth -type d \( -path "*/$group" -o -path "*/$group/*" \) 2>/dev/null)
        [ ${#groups[@]} -gt 0 ] || return 0
        rmdir "${groups[@]}" 2>/dev/null || sleep 0.1
    done
    echo "these control groups are still busy: ${groups[*]}" >&2
}

# What was started by `run` is not ours to end, but it keeps the network, so it is named.
name_strangers() {
    local network process
    { read -r network <"$PENSTOCK_CLUSTER/network"; } 2>/dev/null || return 0
    for process in /proc/[0-9]*; do
        if [ "$(readlink "$process/ns/net" 2>/dev/null)" = "$network" ]; then
            echo "process ${process#/proc/} ($(tr '\0' ' ' <"$process/cmdline")) was started by 'run' and still holds the network" >&2
        fi
    done
}
