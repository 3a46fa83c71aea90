#!/usr/bin/env bash
# Builds an image where no container engine runs, and runs a command in it as its user.
#
#   docker/prove.sh cpu make train
#   docker/prove.sh cuda python -m archer.doctor packages cluster=1x1
#
# For root on Debian with the packages buildah and debootstrap. buildah executes the very Dockerfile,
# step by step in a chroot. Docker Hub is not needed: Debian's own Python 3.11 in a debootstrap of the
# release stands in for the base image. What apt and pip are configured with on this machine is lent
# to the build and stays out of the image, and so are the folders in PROVE_LEND, such as one of wheels.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?cpu or cuda}
shift
work=${PROVE_FOLDER:-/var/tmp/archer-prove}
dockerfile=docker/$name.Dockerfile
base=$(sed -n 's/^FROM //p' "$dockerfile")
root=$work/base
configuration=(/etc/apt /etc/ssl/certs /usr/share/keyrings)
read -ra more <<< "${PROVE_LEND:-}"

images() { buildah --root "$work/images" --runroot "$work/run" "$@"; }

make_base() {
  debootstrap --variant=minbase --include=ca-certificates bookworm "$root"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  local folder status=0
  for folder in "${configuration[@]}"; do mount -o bind,ro "$folder" "$root$folder"; done
  chroot "$root" sh -c 'apt-get update && apt-get install -y --no-install-recommends \
    python3.11-dev python3.11-venv && rm -rf /var/lib/apt/lists' || status=$?
  for folder in "${configuration[@]}"; do umount "$root$folder"; done
  [ "$status" = 0 ] || return "$status"
  ln -sf /usr/bin/python3.11 "$root/usr/local/bin/python"
  ln -sf /usr/bin/python3.11 "$root/usr/local/bin/python3"
  local container
  container=$(images from scratch)
  images copy -q "$container" "$root" /
  images commit -q "$container" "docker.io/library/$base"
  images rm "$container" > /dev/null
}

volumes=()
for folder in "${configuration[@]}" "${more[@]}"; do volumes+=(--volume "$folder:$folder:ro"); done

mkdir -p "$work"
images inspect --type image "docker.io/library/$base" > /dev/null 2>&1 || make_base
python3 -m pip config list 2> /dev/null | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p" |
  { echo "[global]"; cat; } > "$work/pip.conf"
images build --format docker --isolation chroot --network host --layers --pull-never "${volumes[@]}" \
  --secret "id=pip,src=$work/pip.conf" -f "$dockerfile" -t "archer:$name" .

if [ $# -gt 0 ]; then
  container=$(images from --pull-never "archer:$name")
  trap 'images rm "$container" > /dev/null' EXIT
  images run --isolation chroot --network host "$container" -- "$@"
fi
