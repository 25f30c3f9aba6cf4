"""Makes a Python with torch, transformers and peft (or `adapters`) out of what
the set-up has installed, for tests that hold Thinwire to those libraries' own
code: build/oracle/NAME/python, whose path is printed.

    oracle.py peft | adapterhub

.venv has all of torch but the CUDA libraries that it links to, 2.5 GB, of which
a machine without a GPU calls nothing: small libraries of the same names and
symbols stand in for them. The rest are packages of some 100 MB, installed once
(oracle_NAME.txt). Says why and exits with 1 where it cannot."""

import collections
import hashlib
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CHECKS = {
    "peft": "from peft import PeftModel\n"
            "from transformers import BertModel, T5Model",
    "adapterhub": "import adapters\n"
                  "from transformers import BertModel, T5Model",
}
PYTHON = os.path.join(ROOT, ".venv", "bin", "python")
# What stands in is what .venv lacks: of these, the names that torch asks for.
CUDA = re.compile(r"lib(cu|nccl|nvshmem|nvrtc|nvJit)")
FAILING = "int {}(void) {{ return 1; }}"  # an error in each library's codes


def run(*command):
    return subprocess.run(command, check=True, capture_output=True,
                          text=True).stdout


def site_packages():
    return run(PYTHON, "-c", "import sysconfig; "
               "print(sysconfig.get_path('purelib'))").strip()


def needs(path):
    """Libraries that a shared object names, and which versions of each."""
    text = run("objdump", "-p", path)
    versions, library = collections.defaultdict(set), None
    for line in text.split("Version References:")[-1].splitlines():
        if found := re.match(r"\s+required from (\S+):", line):
            library = found[1]
        elif found := re.match(r"\s+0x\w+ 0x\w+ \d+ (\S+)", line):
            if library:
                versions[library].add(found[1])
    return re.findall(r"NEEDED\s+(\S+)", text), versions


def wanted_symbols(path):
    """Undefined symbols by version; "" of those without one."""
    out = collections.defaultdict(set)
    for line in run("nm", "-D", "--undefined-only", path).splitlines():
        name, _, version = line.split()[-1].partition("@")
        out[version].add(name)
    return out


def stand_in(folder, library, versions, symbols):
    """A library of this name in which every call fails."""
    source, script = [], []
    for version in sorted(versions):
        names = sorted(symbols[version])
        source += [FAILING.format(name) for name in names]
        script.append(f"{version} {{ global: {' '.join(n + ';' for n in names)}"
                      " };")
    if not versions:
        # Those of libraries without versions are asked for by name alone.
        prefix = {"libcufile": "cuFile", "libcurand": "curand",
                  "libcusparseLt": "cusparseLt", "libnccl": "nccl",
                  "libcuda": "cu"}.get(library.split(".")[0])
        source += [FAILING.format(name) for name in sorted(symbols[""])
                   if prefix and name.startswith(prefix)]
    c = os.path.join(folder, "stand_in.c")
    with open(c, "w", encoding="utf-8") as f:
        f.write("\n".join(source) or "int thinwire_stands_in;")
    command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-w", c,
               f"-Wl,-soname,{library}", "-o", os.path.join(folder, library)]
    if script:
        with open(c + ".map", "w", encoding="utf-8") as f:
            f.write("\n".join(script))
        command.append(f"-Wl,--version-script={c}.map")
    run(*command)


def make_libraries(folder, packages):
    os.makedirs(folder)
    torch = os.path.join(packages, "torch", "lib")
    there = {name for _, _, names in os.walk(os.path.join(packages, "nvidia"))
             for name in names} | set(os.listdir(torch))
    libraries = collections.defaultdict(set)
    symbols = collections.defaultdict(set)
    for name in os.listdir(torch):
        if ".so" not in name:
            continue
        path = os.path.join(torch, name)
        needed, versions = needs(path)
        for library in needed:
            libraries[library] |= versions[library]
        for version, names in wanted_symbols(path).items():
            symbols[version] |= names
    for library, versions in libraries.items():
        if CUDA.match(library) and library not in there:
            stand_in(folder, library, versions, symbols)


def state(requirements):
    with open(requirements, "rb") as f, open(__file__, "rb") as own:
        return hashlib.sha256(f.read() + own.read()).hexdigest()


def make(name, folder, requirements):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    make_libraries(os.path.join(folder, "lib"), site_packages())
    run(PYTHON, "-m", "pip", "install", "--quiet", "--no-deps",
        "--disable-pip-version-check", "--target",
        os.path.join(folder, "packages"), "--requirement", requirements)
    python = os.path.join(folder, "python")
    with open(python, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\n"
                f'export LD_LIBRARY_PATH="{folder}/lib"\n'
                f'export PYTHONPATH="{folder}/packages"\n'
                f'exec "{PYTHON}" "$@"\n')
    os.chmod(python, 0o755)
    run(python, "-c", CHECKS[name])
    with open(os.path.join(folder, "state"), "w", encoding="utf-8") as f:
        f.write(state(requirements))


def main():
    name = sys.argv[1]
    folder = os.path.join(ROOT, "build", "oracle", name)
    requirements = os.path.join(HERE, f"oracle_{name}.txt")
    try:
        with open(os.path.join(folder, "state"), encoding="utf-8") as f:
            ready = f.read() == state(requirements)
    except FileNotFoundError:
        ready = False
    try:
        if not ready:
            make(name, folder, requirements)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        sys.exit(f"oracle: no Python with {name} here: {why.strip()[-400:]}")
    print(os.path.join(folder, "python"))


if __name__ == "__main__":
    main()
