#!/usr/bin/env bash
# Can TensorFlow Serving 2.20 compute on the GPUs of this machine? Ends with 1 and says why when it cannot.
#
#   preflight.sh [DIRECTORY]     of the driver's own files (/proc/driver/nvidia)
#
# It needs no GPU: the kernel shows the driver's version and the names of the cards to every container. The limits and
# where they come from are in deploy/README.md, "Which GPUs, which drivers".
set -euo pipefail
shopt -s nullglob

files=${1:-/proc/driver/nvidia}
oldest=525.60.13   # of CUDA 12
own=555.42.02      # of CUDA 12.5, which the image is made with

at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

if [[ ! -r $files/version ]]; then
  echo "not checked: $files/version is not there. Under WSL 2 and in sandboxes the driver's files do not show."
  exit 0
fi
driver=$(grep -m 1 NVRM "$files/version" | grep -oE '[0-9]{3,}\.[0-9]+(\.[0-9]+)?' | head -n 1 || true)
if [[ -z $driver ]]; then
  echo "not checked: $files/version names no driver."
  exit 0
fi

cards=()
for file in "$files"/gpus/*/information; do
  cards+=("$(sed -n 's/^Model:[[:space:]]*//p' "$file")")
done
if (( ${#cards[@]} == 0 )); then
  echo "not checked: driver $driver shows no GPU in $files/gpus."
  exit 0
fi

judge() {
  local card=" $1 " hint=""
  if [[ $card =~ Blackwell|\ (B100|B200|B300|GB10|GB200|GB300)[\ -]|RTX\ 50[0-9]0|Thor ]]; then
    echo "cannot work: its compute capability is 10.0 or more. For newer cards than 8.9 TensorFlow 2.20 has most kernels" \
      "only as code for 9.0a, which no driver translates: CUDA_ERROR_INVALID_PTX. Use another GPU."
    return 1
  fi
  if [[ $card =~ \ (K[0-9]+|M4|M6|M10|M40|M60)[a-zA-Z]?[\ -]|GTX\ [6-9][0-9]{2} ]]; then
    echo "cannot work: its compute capability is below 6.0, for which TensorFlow 2.20 has no kernels. Use another GPU."
    return 1
  fi
  if ! at_least "$driver" "$oldest"; then
    echo "needs driver $oldest or newer, better $own. Update the driver."
    return 1
  fi
  if ! at_least "$driver" "$own"; then
    if [[ $card =~ \ (H20|H100|H200|H800|GH200)[\ -] ]]; then
      echo "needs driver $own or newer: for Hopper most kernels of TensorFlow 2.20 are code that an older driver does not" \
        "translate, CUDA_ERROR_UNSUPPORTED_PTX_VERSION. Update the driver."
      return 1
    fi
    if [[ $card =~ GeForce|TITAN|Quadro|\ RTX ]]; then
      echo "needs driver $own or newer: with an older one the image starts on data centre cards only (cuda>=12.5)." \
        "Update the driver."
      return 1
    fi
    hint="; $own is the driver that the image is made for"
  fi
  echo "ok$hint"
}

verdict=0
for card in "${cards[@]}"; do
  if said=$(judge "$card"); then :; else verdict=1; fi
  echo "$card, driver $driver: $said"
done
exit $verdict
