"""What PyTorch's `copy_` makes of integers and 8-bit floats: `python torch_values.py > torch_values.json`.

The test `values_are_converted_as_by_pytorch` in conversions.rs loads the same values into layers of every element type.
Numbers are bits, NaN is null.
"""

import json

import torch

INTEGERS = {
    "BOOL": (torch.bool, [0, 1]),
    "U8": (torch.uint8, [0, 1, 127, 255]),
    "I8": (torch.int8, [0, -1, 127, -128]),
    "U16": (torch.uint16, [2049, 2051, 65519, 65535]),
    "I16": (torch.int16, [257, -2049, 32767, -32768]),
    "U32": (torch.uint32, [2**24 + 1, 2**24 + 3, 2**31 + 1, 2**32 - 1]),
    "I32": (torch.int32, [2**24 + 1, -(2**24) - 3, 2**31 - 1, -(2**31)]),
    "U64": (torch.uint64, [2**53 + 1, 2**53 + 3, 2**63 + 1025, 2**64 - 1]),
    # The last but one is a tie for bfloat16 once it has become a float32.
    "I64": (torch.int64, [2**24 + 1, -(2**53) - 3, 2**60 + 2**36 + 1, 2**24 + 2**16 + 1, 2**63 - 1, -(2**63)]),
}
FLOATS = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
TYPES = {
    "float32": (torch.float32, torch.int32),
    "float64": (torch.float64, torch.int64),
    "float16": (torch.float16, torch.int16),
    "bfloat16": (torch.bfloat16, torch.int16),
}


def converted(source):
    results = {}
    for name, (dtype, bits) in TYPES.items():
        values = torch.zeros(source.shape, dtype=dtype).copy_(source)
        mask = (1 << 8 * dtype.itemsize) - 1
        pairs = zip(values.view(bits).tolist(), values.isnan().tolist())
        results[name] = [None if nan else value & mask for value, nan in pairs]
    return results


def main():
    cases = []
    for name, (dtype, values) in INTEGERS.items():
        source = torch.tensor(values, dtype=dtype)
        cases.append({"dtype": name, "bytes": list(source.view(torch.uint8).tolist()), **converted(source)})
    for name, dtype in FLOATS.items():
        source = torch.arange(256, dtype=torch.uint8).view(dtype)
        cases.append({"dtype": name, "bytes": list(range(256)), **converted(source)})
    print("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]")


main()
