"""Tables of numbers: what goes in comes out, in pieces; and whatever is wrong is said in one line."""

import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constrained_diffusion.tables import Reservoir, TableError, TableWriter, open_table, sample_rows, write_table
from tests.trainings import ROOT

SUFFIXES = ["csv", "tsv", "parquet", "npy", "npz"]
X = np.random.default_rng(0).normal(size=(1000, 3)) * [1e-200, 1.0, 1e200]


def read(path, columns=None, **options):
    return np.concatenate(list(open_table(path).pieces(columns, **options)))


def fails(path, message, columns=None):
    with pytest.raises(TableError, match=message) as error:
        read(path, columns)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def put(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ---------------------------------------------------------------------- there and back


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_digit_comes_back(tmp_path, suffix):
    path = tmp_path / "new" / f"x.{suffix}"
    write_table(path, ["a", "b, c", "ü"], X)
    table = open_table(path)
    assert table.names == (("c0", "c1", "c2") if suffix == "npy" else ("a", "b, c", "ü"))
    assert np.array_equal(read(path), X)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pieces_cover_the_table_in_order(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    with TableWriter(path, ["a", "b", "c"]) as writer:
        for part in np.array_split(X, 7):
            writer.write(part)
        assert not path.exists()
    pieces = list(open_table(path).pieces(rows=90))
    assert max(map(len, pieces)) == 90
    assert np.array_equal(np.concatenate(pieces), X)
    assert open_table(path).rows in (None, 1000)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_in_the_order_asked_for(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    write_table(path, ["c0", "c1", "c2"], X)
    assert np.array_equal(read(path, ["c2", "c0"]), X[:, [2, 0]])
    fails(path, "has no column 'ash': it has c0, c1, c2", columns=["ash"])
    fails(path, "asked twice for 'c1'|two columns", columns=["c1", "c1"])


def test_names_that_are_nearly_right(tmp_path):
    fails(put(tmp_path / "x.csv", "alcohol,ash\n1,2\n"), "did you mean 'alcohol'", columns=["alcool"])


def test_numpy_reads_what_was_written(tmp_path):
    for suffix in ("npy", "npz"):
        write_table(tmp_path / f"x.{suffix}", ["a", "b", "c"], X)
    assert np.array_equal(np.load(tmp_path / "x.npy"), X)
    with np.load(tmp_path / "x.npz") as file:
        assert np.array_equal(np.stack([file[n] for n in "abc"], 1), X)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i1", "i8", "u4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_all_kinds_of_numbers(tmp_path, dtype, order):
    x = np.array(
        (np.arange(30).reshape(10, 3) % 7) > 3 if dtype == "?" else np.arange(30).reshape(10, 3), dtype, order=order
    )
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "one.npz", x)
    np.savez_compressed(tmp_path / "packed.npz", x=x)
    np.savez(tmp_path / "columns.npz", **{f"c{j}": x[:, j] for j in range(3)})
    for path in tmp_path.iterdir():
        assert np.array_equal(read(path, rows=4), x), path
        assert np.array_equal(read(path, ["c2", "c0"], rows=4), x[:, [2, 0]]), path
    np.save(tmp_path / "x.npy", x[:, 0])
    assert np.array_equal(read(tmp_path / "x.npy"), x[:, :1])


def test_parquet_of_all_kinds_of_numbers(tmp_path):
    from decimal import Decimal

    columns = {
        "whole": pa.array([1, 2, 3], pa.int8()),
        "large": pa.array([1, 2, 2**63], pa.uint64()),
        "half": pa.array(np.array([1, 2, 3], np.float32)),
        "yes": pa.array([True, False, True]),
        "money": pa.array([Decimal("1.50"), Decimal("2.25"), Decimal("3.00")]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    expected = [[1, 1, 1, 1, 1.5], [2, 2, 2, 0, 2.25], [3, 2**63, 3, 1, 3]]
    assert read(tmp_path / "x.parquet").tolist() == expected


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b")),
        ("a,b\r\n1,2\r\n3,4", ("a", "b")),
        ("\n\n a , b \n\n 1 , 2 \n\n3,4\n\n", ("a", "b")),
        ("\ufeffa,b\n1,2\n3,4\n", ("a", "b")),
        ('"a","b"\n"1","2"\n3,4\n', ("a", "b")),
        ("a;b\n1;2\n3;4\n", ("a", "b")),
        ('"x, y";b\n1;2\n3;4\n', ("x, y", "b")),
        ("a\tb\n1\t2\n3\t4\n", ("a", "b")),
        ("1,2\n3,4\n", ("c0", "c1")),
        ("1e0,+2\n3.,04\n", ("c0", "c1")),
    ],
)
def test_csv_as_people_write_it(tmp_path, text, names):
    table = open_table(put(tmp_path / "x.csv", text))
    assert table.names == names
    assert table.named == (names != ("c0", "c1"))
    assert read(table.path).tolist() == [[1, 2], [3, 4]]


def test_truth_values_are_numbers(tmp_path):
    assert read(put(tmp_path / "x.csv", "a,b\ntrue,1\nFalse,2\n")).tolist() == [[1, 1], [0, 2]]


def test_numbers_that_only_later_have_a_point(tmp_path):
    text = "a\n" + "1\n" * 600_000 + "2.5\n"  # beyond the block by which types are guessed
    assert read(put(tmp_path / "x.csv", text))[-1] == 2.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b\n", "has no rows"),
        ("a,b\n\n\n", "has no rows"),
        ("a,b\n1,2\n3\n", "row 2 has 1 values, not 2"),
        ("a,b\n1,2\n\n3,4,5\n", "row 2 has 3 values, not 2"),
        ("1,2\n3,4\n5\n", "row 3 has 1 values"),
        (
            "a,b\n1,2\n3,x\n",
            "column 'b' holds text: 'x' in row 2: correct it, or fit without it: --columns a$",
        ),
        ("a,b\n1,2\n3,\n", "row 2: column 'b' is missing"),
        ("a,b\n1,2\n\n3,NaN\n", "row 2: column 'b' is missing or NaN"),
        ("a,b\n1,2\n-inf,4\n", "row 2: column 'a' is -inf"),
        ("a,b\n1,2\n3,1e999\n", "row 2: column 'b' is inf"),
        ("a,a\n1,2\n", "two columns are named 'a'"),
        (",a\n1,2\n", "column 1 has no name .* --columns a$"),
        ("day,a\n2020-01-01,2\n", "column 'day' holds dates or times: fit without it: --columns a$"),
        ("kind,a\nred,2\nblue,3\n", "column 'kind' holds text: 'red' in row 1"),
        ("a,b\n1,1_000\n", "column 'b' holds text: '1_000'"),
        (b"\xff\xfea\x00", "UTF-8"),
    ],
    ids=repr,
)
def test_bad_csv(tmp_path, text, message):
    fails(put(tmp_path / "x.csv", text), message)


def test_a_bad_value_far_into_a_file(tmp_path):
    rows = ["1.5,2\n"] * 300_000
    rows[250_000] = "1.5,oops\n"
    fails(put(tmp_path / "x.csv", "a,b\n" + "".join(rows)), "'oops' in row 250001")
    rows[250_000] = "1.5,\n"
    fails(put(tmp_path / "x.csv", "a,b\n" + "".join(rows)), "row 250001: column 'b' is missing")


def test_columns_that_are_not_read_may_hold_anything(tmp_path):
    path = put(tmp_path / "x.csv", ",kind,day,a,a,b\n0,red,2020-01-01,1,2,3\n1,,2020-01-02,,2,4\n")
    assert read(path, ["b"]).tolist() == [[3], [4]]
    fails(path, "two columns are named 'a'", columns=["a"])


# ---------------------------------------------------------------------- other files


def test_places_that_hold_no_table(tmp_path):
    fails(tmp_path / "none.csv", "there is no such file")
    fails(tmp_path, r"is a folder: give a file")
    fails(put(tmp_path / "x.xlsx", "a"), r"cannot read files that end in '\.xlsx': use \.csv")
    for suffix in SUFFIXES:
        fails(put(tmp_path / f"x.{suffix}", ""), "is empty")


@pytest.mark.parametrize("suffix", ["parquet", "npy", "npz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_torn_files(tmp_path, suffix, share):
    path = tmp_path / f"x.{suffix}"
    write_table(path, ["a", "b", "c"], X)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    fails(path, "is torn")


def test_bits_that_have_flipped(tmp_path):
    for path in (tmp_path / "x.npz", tmp_path / "x.parquet"):
        write_table(path, ["a", "b", "c"], X)
        content = bytearray(path.read_bytes())
        content[4000:4008] = bytes(8)
        path.write_bytes(content)
        fails(path, "is torn")


def test_arrays_that_are_no_tables(tmp_path):
    path = tmp_path / "x.npy"
    for x, message in [
        (np.ones((2, 2, 2)), r"has shape \[2, 2, 2\]: expected \[rows, columns\]"),
        (np.float64(1), r"has shape \[\]"),
        (np.ones((0, 2)), "has no rows"),
        (np.ones((2, 0)), r"has shape \[2, 0\]"),
        (np.array([{}, None], dtype=object), "holds Python objects, which are never unpickled"),
        (np.array(["a", "b"]), "holds text"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "holds dates or times"),
        (np.ones(2) * 1j, "holds complex numbers"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "holds records"),
        (np.array([[1.0, np.nan]]), "row 1: column 'c1' is missing or NaN"),
    ]:
        np.save(path, x)
        fails(path, message)
        np.savez(tmp_path / "x.npz", x=x)
        fails(tmp_path / "x.npz", message)


def test_archives_that_are_no_tables(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(3), b=np.ones(4))
    fails(path, r"holds a \[3\], b \[4\]: expected columns of one length")
    np.savez(path, a=np.ones((3, 2)), b=np.ones(3))
    fails(path, "one array")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no arrays")
    fails(path, "holds no arrays")
    np.savez(path, a=np.ones(3), b=np.array(["x"] * 3))
    assert read(path, ["a"]).tolist() == [[1]] * 3
    fails(path, "column 'b' holds text: fit without it: --columns a$")


def test_parquet_that_is_no_table(tmp_path):
    path = tmp_path / "x.parquet"
    columns = {
        "a": [1.0, None],
        "day": pa.array([0, 1], pa.date32()),
        "time": pa.array([0, 1], pa.timestamp("s")),
        "text": ["x", "y"],
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "list": [[1.0], [2.0]],
        "b": [1, 2],
    }
    pq.write_table(pa.table(columns), path)
    fails(path, "row 2: column 'a' is missing", columns=["a"])
    for name in ("day", "time"):
        fails(path, f"column '{name}' holds dates or times: fit without it: --columns a,b$", columns=[name])
    for name in ("text", "kind"):
        fails(path, f"column '{name}' holds text", columns=[name])
    fails(path, "column 'list' holds values of type list", columns=["list"])
    pq.write_table(pa.table({"a": [1.0], "__index_level_0__": [7]}), path)
    fails(path, "column 2 has no name")
    assert read(path, ["a"]).tolist() == [[1]]


def test_without_pyarrow(tmp_path, monkeypatch):
    for suffix in SUFFIXES:
        write_table(tmp_path / f"x.{suffix}", ["a", "b", "c"], X)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for suffix in ("csv", "parquet"):
        fails(tmp_path / f"x.{suffix}", r"need pyarrow: .*reflected-diffusion\[cli\]")
        with pytest.raises(TableError, match="need pyarrow"):
            write_table(tmp_path / f"y.{suffix}", ["a"], X[:, :1])
    for suffix in ("npy", "npz"):
        assert np.array_equal(read(tmp_path / f"x.{suffix}"), X)
    assert not list(tmp_path.glob("y.*")) + list(tmp_path.glob(".y*"))


# ---------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_while_writing_leaves_the_old_file(tmp_path, suffix):
    path = put(tmp_path / f"x.{suffix}", "old")

    def broken():
        with TableWriter(path, ["a", "b", "c"]) as writer:
            writer.write(X)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(TableError, match="cannot write files that end in '.txt'"):
        write_table(tmp_path / "x.txt", ["a"], X[:, :1])
    (tmp_path / "x.npy").mkdir()
    with pytest.raises(TableError, match="is a folder"):
        write_table(tmp_path / "x.npy", ["a"], X[:, :1])
    with pytest.raises(TableError, match=r"has shape \[1000, 3\]; expected \[n, 1\]"):
        write_table(tmp_path / "y.npy", ["a"], X)
    put(tmp_path / "file", "")
    with pytest.raises(TableError, match=r"y.npy cannot be written: "):
        write_table(tmp_path / "file" / "y.npy", ["a"], X[:, :1])


FULL = """
import resource, signal, sys
import numpy as np
from constrained_diffusion.tables import TableWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for path in sys.argv[1:]:
    try:
        with TableWriter(path, ["a", "b"]) as writer:
            for _ in range(50):
                writer.write(np.random.default_rng(0).normal(size=(1000, 2)))
    except OSError as error:
        print(error.strerror)
"""


def test_a_file_that_may_not_grow(tmp_path):
    """A limit of the system, as on a full disk."""
    paths = [tmp_path / f"x.{suffix}" for suffix in SUFFIXES]
    done = subprocess.run([sys.executable, "-c", FULL, *paths], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == len(SUFFIXES) * "File too large\n"
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- samples of rows


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 30), st.integers(0, 5))
def test_a_sample_does_not_depend_on_the_pieces(sizes, rows, seed):
    x = np.arange(sum(sizes), dtype=float)[:, None]
    pieces = np.split(x, np.cumsum(sizes)[:-1]) if sizes else []
    sample, seen = sample_rows(pieces, rows, seed)
    whole, _ = sample_rows([x], rows, seed)
    assert seen == len(x)
    assert len(sample) == min(rows, len(x))
    assert len(x) == 0 or np.array_equal(sample, whole)
    assert len(np.unique(sample)) == len(sample)
    if len(x) <= rows and len(x):
        assert np.array_equal(sample, x)


def test_every_row_is_as_likely():
    from scipy.stats import chi2

    n, rows, trials = 50, 10, 4000
    x = np.arange(n, dtype=float)[:, None]
    counts = np.zeros((n, n))
    for seed in range(trials):
        chosen = sample_rows([x[:7], x[7:23], x[23:]], rows, seed)[0][:, 0].astype(int)
        counts[np.ix_(chosen, chosen)] += 1
    share = rows / n
    z = (np.diag(counts) - trials * share) / np.sqrt(trials * share * (1 - share))
    assert chi2.sf((z**2).sum() * (n - 1) / n, n - 1) > 1e-5
    pairs = counts[np.triu_indices(n, 1)]
    both = share * (rows - 1) / (n - 1)
    assert np.abs((pairs - trials * both) / np.sqrt(trials * both * (1 - both))).max() < 5.5  # alpha 5e-5 / 2


def test_a_reservoir_of_no_rows():
    with pytest.raises(ValueError, match="rows must be at least 1"):
        Reservoir(0)


# ---------------------------------------------------------------------- memory

WRITE = """
import sys
import numpy as np
from constrained_diffusion.tables import TableWriter
generator = np.random.default_rng(0)
with TableWriter(sys.argv[1], ["a", "b", "c"]) as writer:
    for _ in range(int(sys.argv[2]) // 100_000):
        writer.write(generator.random((100_000, 3)))
"""

READ = """
import resource, sys
from constrained_diffusion.tables import open_table, sample_rows
table = open_table(sys.argv[1])
next(table.pieces())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sample, seen = sample_rows(table.pieces(), 1000)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seen, (after - before) / 1024)
"""


def grown(tmp_path, suffix, rows):
    """Rows read from a large file, and by how many MiB the process that did it grew."""
    path = tmp_path / f"large.{suffix}"
    if suffix == "wide.parquet":  # all rows in one group, as other programs write
        values = {name: np.random.default_rng(0).random(rows) for name in "abc"}
        pq.write_table(pa.table(values), path, row_group_size=rows)
    else:
        subprocess.run([sys.executable, "-c", WRITE, path, str(rows)], cwd=ROOT, check=True)
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, cwd=ROOT, check=True)
    path.unlink()
    seen, growth = done.stdout.split()
    return int(seen), float(growth)


@pytest.mark.parametrize("suffix", ["csv", "wide.parquet", "npy"])
def test_memory_for_a_million_rows(tmp_path, suffix):
    seen, growth = grown(tmp_path, suffix, 1_000_000)  # 24 MB as float64, 57 MB as text
    assert seen == 1_000_000
    assert growth < 20


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "parquet", "wide.parquet", "npy", "npz"])
def test_memory_for_ten_million_rows(tmp_path, suffix):
    seen, growth = grown(tmp_path, suffix, 10_000_000)  # 240 MB as float64, 570 MB as text
    assert seen == 10_000_000
    assert growth < 40
