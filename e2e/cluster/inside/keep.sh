# Sourced inside of the cluster: programs that are started again when they end, as an init system does.
# shellcheck shell=bash

# keep FOLDER NAME COMMAND ...: never returns. FOLDER/NAME.pid is the number of the process, as seen in its namespace.
keep() {
    local folder=$1 name=$2
    shift 2
    while true; do
        "$@" >>"/mnt/cluster/log/$name${NODE:+-$NODE}.log" 2>&1 &
        echo $! >"$folder/$name.pid"
        wait $! || true
        # As long as the kubelet's unit waits nowhere near, but enough not to spin.
        sleep 0.5
    done
}

# Makes a group of the cluster's in every hierarchy, and moves this process into it.
join_group() {
    local cluster
    while read -r cluster; do
        mkdir -p "$cluster/$1"
        # 0 is whoever writes.
        echo 0 >"$cluster/$1/cgroup.procs"
    done </mnt/cluster/groups
}
