"""Made-up projects of a given size: C sources with a Makefile, and a wheel that installs without a network.

Owns their contents, which depend on nothing but the size.
"""

import zipfile
from pathlib import Path


def c_project(place: Path, files: int) -> None:
    """``files`` C files that include a shared header, and a Makefile that links them into ``program``."""
    place.mkdir(parents=True)
    declarations = "".join(f"int part{n}(int);\n" for n in range(files))
    (place / "parts.h").write_text("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n" + declarations)
    for number in range(files):
        body = "".join(f"  x = x * {n + 3} + {number};\n  if (x > 1000000) x %= 7919;\n" for n in range(40))
        source = f'#include "parts.h"\nint part{number}(int x) {{\n{body}  return x;\n}}\n'
        (place / f"part{number}.c").write_text(source)
    calls = "".join(f"  x = part{n}(x);\n" for n in range(files))
    (place / "main.c").write_text(f'#include "parts.h"\nint main(void) {{\n  int x = 1;\n{calls}  return x < 0;\n}}\n')
    objects = "main.o " + " ".join(f"part{n}.o" for n in range(files))
    (place / "Makefile").write_text(
        f"program: {objects}\n\t$(CC) -o $@ $^\n%.o: %.c parts.h\n\t$(CC) -O1 -c -o $@ $<\n"
        "clean:\n\trm -f *.o program\n"
    )


def local_wheel(place: Path, number: int, files: int) -> Path:
    """A wheel of ``files`` small modules."""
    name = f"bench_thing{number}"
    wheel = place / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        for module in range(files):
            archive.writestr(f"{name}/p{module // 20}/m{module}.py", f"N = {module}\n" * 60)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        record = "".join(f"{member},,\n" for member in [*archive.namelist(), f"{info}/RECORD"])
        archive.writestr(f"{info}/RECORD", record)
    return wheel
