#!/bin/sh
# Mirrors the versions of $MODELS_SOURCE in $MODELS_TARGET (/models), each either complete or absent.
#
#   sync.sh once       one round; fails when it fails
#   sync.sh forever    a round every $SYNC_SECONDS (30); one that fails is reported and repeated
#
# In the store a version is <model>/<version>/, and it is complete when it contains the file COMPLETE, which is uploaded
# last because stores have no rename. Here a version appears by rename(2), so that a model server sees it complete.
set -eu
source=${MODELS_SOURCE:?the place of the models in the store, such as store:bucket/models}
target=${MODELS_TARGET:-/models}

versions() {  # of the store, complete ones: <model>/<version>
    # A pipe would hide the exit code of a failed listing, which would look like an empty store.
    listing=$(rclone lsf --recursive --max-depth 3 --files-only --include '/*/*/COMPLETE' "$source") || return 1
    echo "$listing" | sed -n 's,^\([A-Za-z0-9][A-Za-z0-9._-]*/[1-9][0-9]*\)/COMPLETE$,\1,p'
}

fetch() {  # <model>/<version>
    model=${1%/*}
    draft=$target/$model/.tmp-sync-${1#*/}
    mkdir -p "$target/$model"
    rm -rf "$draft"
    # rclone compares sizes and hashes of copied files with the store's; check does so again for the whole version.
    rclone copy "$source/$1" "$draft"
    rclone check --one-way "$source/$1" "$draft"
    mv "$draft" "$target/$1"
    echo "fetched $1"
}

drop() {  # <model>/<version>: out of sight first, then away
    gone=$target/${1%/*}/.tmp-gone-${1#*/}
    rm -rf "$gone"
    mv "$target/$1" "$gone"
    rm -rf "$gone"
    echo "dropped $1"
}

round() {
    wanted=$(versions) || return 1
    # An empty store is more likely a wrong name than intended.
    test -n "$wanted" || { echo "no complete version in $source: nothing is changed" >&2; return 1; }
    for version in $wanted; do
        test -d "$target/$version" || fetch "$version" || return 1
    done
    # Old versions go after the new ones have arrived.
    for directory in "$target"/*/[1-9]*/; do
        test -d "$directory" || continue
        directory=${directory%/}
        version=${directory#"$target"/}
        echo "$wanted" | grep -qxF "$version" || drop "$version"
    done
    touch "${TMPDIR:-/tmp}/synced"
}

case ${1:-} in
    once) round ;;
    forever)
        trap 'exit 0' TERM INT
        while true; do
            round || echo "this round failed; the next one is in ${SYNC_SECONDS:-30} s" >&2
            sleep "${SYNC_SECONDS:-30}" & wait $!
        done ;;
    *) echo "Expected: once or forever. Received: ${1:-nothing}" >&2; exit 2 ;;
esac
