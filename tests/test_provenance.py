import platform

import pytest

from resnet_jax.train import provenance

CORE = """processor\t: {}
model name\t: AMD EPYC
flags\t\t: fpu sse4_2 {}
bugs\t\t: spectre_v1
"""


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("avx avx2 avx512f avx512_bf16", "AMD EPYC with AVX-512 BF16"),
        ("avx avx2 avx512f", "AMD EPYC with AVX-512"),
        ("avx avx2", "AMD EPYC with AVX2"),
        ("avx", "AMD EPYC"),
    ],
)
def test_a_processor_is_told_from_its_namesakes_by_its_vectors(flags, name, tmp_path):
    told = tmp_path / "cpuinfo"
    told.write_text("\n".join(CORE.format(core, flags) for core in (0, 1)))
    assert provenance.processor(told) == name


def test_where_nothing_is_told_the_processor_has_the_name_that_python_knows(tmp_path):
    known = platform.processor() or platform.machine()
    assert provenance.processor(tmp_path / "absent") == known
    # As Linux tells of an ARM.
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert provenance.processor(tmp_path / "arm") == known
