"""Stores networks in f16, if and only if that changes no value.

  python to_f16.py OUT_DIR NET.safetensors...
"""
import json
import pathlib
import struct
import sys


def load(path):
    data = pathlib.Path(path).read_bytes()
    length, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + length]), data[8 + length:]


def convert(path, out):
    header, data = load(path)
    metadata = header.pop("__metadata__", None)
    body, converted = b"", {"__metadata__": metadata} if metadata else {}
    for name in sorted(header):
        tensor = header[name]
        assert tensor["dtype"] == "F32", name
        begin, end = tensor["data_offsets"]
        values = struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
        halves = struct.pack(f"<{len(values)}e", *values)
        assert struct.unpack(f"<{len(values)}e", halves) == values, f"{name} is not exact in f16"
        offsets = [len(body), len(body) + len(halves)]
        converted[name] = {"dtype": "F16", "shape": tensor["shape"], "data_offsets": offsets}
        body += halves
    text = json.dumps(converted, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main():
    for path in sys.argv[2:]:
        convert(path, pathlib.Path(sys.argv[1]) / pathlib.Path(path).name)


if __name__ == "__main__":
    main()
