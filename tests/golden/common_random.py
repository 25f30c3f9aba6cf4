"""base/random.h from its definition, in NumPy."""

import numpy as np

# XXH3, 64 bits, of what numbers belong to.
NAMES = {
    "dsee.split": 0x18A0610C20678F4D,
    "fastfood.normal": 0xF3EB8424A45464E3,
    "fastfood.order": 0x66D7DD977F52F9E7,
    "fastfood.signs": 0x2C6CA0B158D837B7,
    "gate.numbers": 0xDC2AFCAC1667127B,
    "gate.tensor": 0x0FD1AACDEB3ED6A2,
}
INIT, MASK = 1, 3  # what numbers are for
ONES = (1 << 64) - 1


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & ONES
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ONES
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ONES
    return x ^ (x >> 31)


def make_key(seed, purpose, step=0):
    return mix64(mix64(mix64(seed) ^ purpose) ^ step)


def philox(n, key, high=0):
    """n numbers of 32 bits: Philox4x32-10 at counters (0, high), (1, high) …,
    four of each; high: 64 bits, as the counter."""
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    block = np.arange((n + 3) // 4, dtype=np.uint64)
    ones = np.ones_like(block)
    c = [
        block & low,
        block >> half,
        ones * np.uint64(high & 0xFFFFFFFF),
        ones * np.uint64(high >> 32),
    ]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> half) ^ c[1] ^ np.uint64(k0),
            p1 & low,
            (p0 >> half) ^ c[3] ^ np.uint64(k1),
            p0 & low,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, 1).ravel()[:n]


def uniform(n, seed, name):
    """In [0, 1), 24 bits; what belongs to a name."""
    bits = philox(n, make_key(seed, INIT), NAMES[name])
    return (bits >> np.uint64(8)) / 2.0**24


def normal(n, seed, name):  # Box and Muller's
    u, v = uniform((n + 1) // 2 * 2, seed, name).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log(1 - u)), 2 * np.pi * v
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return z.ravel()[:n]
