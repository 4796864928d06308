#!/usr/bin/env python3
"""Reads Tharsis vaults without the agent: a second reader, written from docs/FORMAT.md alone.

    rescue.py [options] VAULT points                           list the points
    rescue.py [options] VAULT check [POINT...]                 read all that the points need
    rescue.py [options] VAULT restore POINT TARGET [PATH...]   restore a point, or some paths of it

VAULT is a folder. POINT is "latest" or the first digits of a point's ID. TARGET is a folder that is
empty or not there yet; files get their full original paths below it. The passphrase or recovery key
comes from --passphrase-file or --recovery-key-file, from the environment variable THARSIS_PASSPHRASE,
or is asked for. It never writes to the vault.

With --salvage it goes on where config or the log is damaged or has holes, which else ends it: what
lies behind is then taken for what it says, though something that changed it may be missing.

Exit codes: 0 all whole, 1 error, 3 something is missing (each is named), 10 no vault there, 12 wrong
passphrase or recovery key, 130 interrupted.

The sections below follow those of docs/FORMAT.md, whose numbers stand in the comments as §.
"""

import argparse
import base64
import bisect
import errno
import getpass
import hashlib
import hmac
import os
import re
import stat
import struct
import sys
import unicodedata
from array import array
from collections import OrderedDict, namedtuple
from datetime import datetime, timezone

try:
    import argon2.low_level
    import zstandard
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError as missing:
    sys.exit(f"error: {missing}\nhint: apt-get install python3-cryptography python3-argon2 python3-zstandard")

KIB, MIB = 1 << 10, 1 << 20
ZERO_ID = bytes(32)
MAX_CHUNK = 8 * MIB  # plaintext of a chunk and of a record (§13)
MAX_STORED = MAX_CHUNK + 64 * KIB  # box of a record (§6.2)
MAX_PAGE = MIB  # plaintext of a page (§13)
MAX_PACK = 256 * MIB
MAX_ENTRY = MIB + KIB  # object of a log entry (§11)
MAX_RUN = 64 << 30  # 2^28 chunks take 11 GiB; records and packs are fewer
MAX_SLOTS = 128  # slots that are tried: 16, and those that killed jobs left
MAX_DIRECTORY = 24 * MIB  # plaintext of a pack's directory (§6.2)
BOX = 28  # what a box adds: nonce 12, tag 16

RECORD_CACHE = 64 * MIB  # decoded records: neighbours in a manifest mostly share them
BLOCK_CACHE = 1024  # decoded index blocks, 64 KiB of tuples each
OPEN_FILES = 64  # packs, and folders below the target, that are kept open


class Damaged(Exception):
    """Something in the vault is not as it was written."""


class Missing(Damaged):
    """An object is not there."""


class Failed(Exception):
    """The job cannot go on: a message, an exit code and a hint."""

    def __init__(self, message, code=1, hint=None):
        super().__init__(message)
        self.code, self.hint = code, hint


class Report:
    """Names on stderr what is damaged or missing, and counts it.

    A damage that another copy may make up for counts only if strict, when checking.
    """

    def __init__(self, strict=False, quiet=False):
        self.strict, self.quiet, self.count, self.named = strict, quiet, 0, set()

    def lost(self, what):
        self.count += 1
        if not self.quiet:
            say(what)

    def damage(self, what):
        if what not in self.named:
            self.named.add(what)
            self.count += self.strict
            if not self.quiet:
                say(what)


def say(text):
    sys.stderr.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def show(raw):
    """Raw bytes or text of the vault in a form that no terminal takes for a command."""
    text = os.fsdecode(raw) if isinstance(raw, bytes) else raw
    return text if text.isprintable() else ascii(text)


# ---- §1 Conventions: reading fields -----------------------------------------------------------


class Fields:
    """Takes fields off the front of some bytes; rejects what no writer would have written."""

    def __init__(self, data, what):
        self.data, self.at, self.what = bytes(data), 0, what

    def bad(self, why):
        return Damaged(f"{self.what}: {why}")

    def take(self, n):
        start, self.at = self.at, self.at + n
        if self.at > len(self.data):
            raise self.bad("too short")
        return self.data[start : self.at]

    def uint(self, size):
        return int.from_bytes(self.take(size), "little")

    def i64(self):
        return int.from_bytes(self.take(8), "little", signed=True)

    def uvarint(self, low=0, high=2**64 - 1):
        value = shift = 0
        while True:
            if self.at == len(self.data):
                raise self.bad("too short")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise self.bad("a number is too long")
        if (byte == 0 and shift) or not low <= value <= high:
            raise self.bad(f"the number {value} is not allowed")
        return value

    def varint(self):
        code = self.uvarint()
        return (code >> 1) ^ -(code & 1)

    def blob(self, low, high):
        return self.take(self.uvarint(low, high))

    def text(self):
        try:
            return self.blob(0, 1024).decode()
        except UnicodeDecodeError:
            raise self.bad("text is not UTF-8") from None

    def id(self):
        value = self.take(32)
        if value == ZERO_ID:
            raise self.bad("an ID is zero")
        return value

    def list(self, width):
        return [self.take(width) for _ in range(self.uvarint(0, len(self.data) // width))]

    def end(self):
        if self.at != len(self.data):
            raise self.bad("bytes follow its end")


# ---- §2 Keys, §3 objects ----------------------------------------------------------------------


def expand(key, info, length):
    """HKDF-Expand of RFC 5869 with SHA-256."""
    out = block = b""
    for i in range(1, (length + 31) // 32 + 1):
        block = hmac.digest(key, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


def open_box(key, box, aad, what):
    if len(box) < BOX:
        raise Damaged(f"{what}: too short")
    try:
        return key.decrypt(box[:12], box[12:], aad)
    except InvalidTag:
        raise Damaged(f"{what}: does not open") from None


def check_header(data, kind, what):
    """The 6 bytes that all objects begin with."""
    if len(data) < 6 or data[:4] != b"THSR":
        raise Damaged(f"{what}: not an object of a vault")
    if data[4] > 0:
        raise Damaged(f"{what}: has format version {data[4]}: a newer reader is needed")
    if data[5] != kind:
        raise Damaged(f"{what}: has type {data[5]} in place of {kind}")


PURPOSE = {3: b"pack", 4: b"manifest", 5: b"index", 6: b"log"}  # of the types of sealed objects


class Keys:
    """All keys that the root key gives."""

    def __init__(self, root, vault_id):
        self.vault_id = vault_id
        self.purpose = {}
        for name in (b"chunk-id", b"page-id", *PURPOSE.values()):
            self.purpose[name] = expand(root, b"tharsis/0/" + name + b"\0" + vault_id + b"\0\0", 32)
        self.chunk_id, self.page_id = self.purpose[b"chunk-id"], self.purpose[b"page-id"]

    def of_object(self, kind, object_id):
        """The key of a sealed object and its commitment."""
        info = b"tharsis/0/object" + bytes([kind]) + object_id
        both = expand(self.purpose[PURPOSE[kind]], info, 64)
        return AESGCM(both[:32]), both[32:]


def check_sealed(header, kind, commitment, what):
    """The 40 bytes that a sealed object begins with."""
    ours = hmac.compare_digest(header[8:40], commitment)
    if ours and header[:8] != b"THSR\0" + bytes([kind, 0, 0]):
        raise Damaged(f"{what}: its header was changed")  # other versions and epochs derive other keys
    check_header(header, kind, what)
    if header[6:8] != b"\0\0":
        raise Damaged(f"{what}: has another key epoch: a newer reader is needed")
    if not ours:
        raise Damaged(f"{what}: its key is not the one that it was sealed with")


class Folder:
    """A vault in a folder."""

    def __init__(self, path):
        self.path = os.fsencode(path)

    def open(self, name, limit):
        """A descriptor of an object, and its size, which is at most limit."""
        try:
            fd = os.open(os.path.join(self.path, os.fsencode(name)), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{name}: is missing") from None
        except OSError as e:
            raise Damaged(f"{name}: {e.strerror}") from None
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
            os.close(fd)
            raise Damaged(f"{name}: is not a file of at most {limit} bytes")
        return fd, info.st_size

    def read(self, name, limit):
        fd, size = self.open(name, limit)
        try:
            return read_at(fd, 0, size, name)
        finally:
            os.close(fd)

    def list(self, name, digits):
        """The objects of a folder whose names have so many hexadecimal digits, sorted."""
        try:
            names = os.listdir(os.path.join(self.path, os.fsencode(name)))
        except OSError:
            return []
        return sorted(n.decode() for n in names if re.fullmatch(rb"[0-9a-f]{%d}" % digits, n))


def read_at(fd, offset, size, what):
    parts, left = [], size
    while left:
        try:
            part = os.pread(fd, left, offset + size - left)
        except OSError as e:
            raise Damaged(f"{what}: {e.strerror}") from None
        if not part:
            raise Damaged(f"{what}: ends too early")
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


# ---- §4 config, §5 slots ----------------------------------------------------------------------


def find_config(folder, report, salvage):
    """The vault ID, and the hash of config; with salvage the ID that a slot has, and None, where config is damaged."""
    if not folder.list("log", 16) and not folder.list("bundle", 16):
        raise Failed(f"{show(folder.path)} holds no vault: it has no config, or its init never ended", 10)
    slots = slot_vaults(folder) if salvage else []
    try:
        config = read_config(folder)
        if not slots or config[0] in slots:
            return config
        raise Damaged("config: has another vault's ID than the key slots")
    except Damaged as e:
        if slots:
            report.lost(f"{e}; the vault's ID is taken from a key slot")
            return slots[0], None
        if isinstance(e, Missing):
            raise Failed(f"{show(folder.path)} holds no vault: it has no file config", 10) from None
        raise


def slot_vaults(folder):
    """The vault IDs that the key slots have."""
    found = []
    for name in folder.list("keys", 32)[:MAX_SLOTS]:
        try:
            data = folder.read("keys/" + name, 4096)
            check_header(data, 2, "slot")
            found.append(data[23:39])
        except Damaged:
            continue
    return found


def read_config(folder):
    """The vault ID, and the hash of config that GENESIS has to name."""
    data = folder.read("config", 4096)
    check_header(data, 1, "config")
    c = Fields(data, "config")
    c.take(6)
    vault_id, suite, mode, owner = c.take(16), c.uint(2), c.uint(1), c.take(16)
    chunker, low, high, bits, compression = c.uint(1), c.uint(4), c.uint(4), c.uint(1), c.uint(1)
    c.end()
    if suite > 1 or mode > 1 or chunker > 1 or compression > 1:
        raise c.bad("uses what a newer reader knows")
    if not (suite and chunker and compression) or vault_id == bytes(16) or (owner != bytes(16)) != (mode == 1):
        raise c.bad("a field is not allowed")
    if not 64 * KIB <= low < high <= MAX_CHUNK or not 12 <= bits <= 24:
        raise c.bad("the chunker's sizes are not allowed")
    return vault_id, hashlib.sha256(data).digest()


def recovery_key(text):
    """The 32 bytes of a recovery key, or None if the text does not read like one."""
    digits = "".join(c for c in text.lower() if not c.isspace() and unicodedata.category(c) != "Pd")
    if not re.fullmatch(r"thr1.{48,64}", digits):
        return None
    try:
        raw = base64.b32decode(digits[4:].upper())
    except ValueError:
        raw = b""
    if len(raw) != 35 or hashlib.sha256(raw[:32]).digest()[:3] != raw[32:]:
        raise Failed("the recovery key has a typing error", 12)
    return raw[:32]


def open_slot(data, slot_id, vault_id, secret, passphrase):
    """The root key and the admin's seed in a slot, or None if the secret is not the slot's."""
    check_header(data, 2, "slot")
    c = Fields(data, "slot")
    c.take(6)
    kind, own_id, own_vault = c.uint(1), c.take(16), c.take(16)
    t, m, p, salt, commitment, box = c.uint(4), c.uint(4), c.uint(1), c.take(32), c.take(32), c.take(BOX + 96)
    c.end()
    if own_id != slot_id or own_vault != vault_id:
        raise c.bad("belongs elsewhere")
    if kind == 1:
        if not (1 <= t <= 16 and 1 <= p <= 16 and max(8, 8 * p) <= m <= 2 * MIB):
            raise c.bad("its Argon2id parameters are not allowed")
    elif kind != 2 or t or m or p or salt != bytes(32):
        raise c.bad("a field is not allowed")
    if (kind == 1) != passphrase:
        return None
    if kind == 1:
        secret = argon2.low_level.hash_secret_raw(secret, salt, t, m, p, 32, argon2.low_level.Type.ID, version=0x13)
    both = expand(secret, b"tharsis/0/slot" + vault_id + slot_id, 64)
    if not hmac.compare_digest(both[32:], commitment):
        return None
    payload = open_box(AESGCM(both[:32]), box, data[:112], "slot")
    if kind == 2 and payload[64:] != bytes(32):
        raise c.bad("holds a recovery key")
    return payload[:32], payload[32:64]


def open_vault(folder, config, text, report, salvage=False):
    """Finds the slot that the passphrase or recovery key opens; gives the keys and the log."""
    vault_id, config_hash = config
    secret = recovery_key(text)
    passphrase = secret is None
    if passphrase:
        secret = unicodedata.normalize("NFC", text).encode()
    trouble = root = None
    for name in folder.list("keys", 32)[:MAX_SLOTS]:
        try:
            data, slot_id = folder.read("keys/" + name, 4096), bytes.fromhex(name)
            found = open_slot(data, slot_id, vault_id, secret, passphrase)
            if found is None:
                continue
            root, seed = found
            # A killed init may have left a slot of another root key, under which the log does not open.
            log = Log(folder, Keys(root, vault_id), report, seed if salvage else None)
            if log.config_hash != config_hash:
                trouble = Damaged("config: is not the one that the log names")
                if not salvage:
                    raise trouble
                report.lost(str(trouble))
            if salvage:
                return log
            if log.slots.get(slot_id) == hashlib.sha256(data).digest():
                return log
            report.damage(f"keys/{name}: is passed over: the log does not name it, or no longer")
        except Damaged as e:
            report.damage(f"keys/{name}: {e}")
            trouble = trouble or (e if root else None)
        root = None
    if trouble:
        raise trouble
    what, other = ("passphrase", "recovery key") if passphrase else ("recovery key", "passphrase")
    raise Failed(f"no key slot of the vault opens with this {what}", 12, f"try another, or the {other}")


# ---- §10 The log, §11 bundles -----------------------------------------------------------------

GENESIS, MACHINE, COMMIT, PARTIAL, INDEX, FORGET, UNFORGET, HOLD, UNHOLD = range(1, 10)
PURGE, REPACK, CONDEMN, SWEPT, QUARANTINE, KEYCHANGE, NOTED, SETTINGS = range(10, 18)

Entry = namedtuple("Entry", "seq previous type time nonce writer body")
Source = namedtuple("Source", "path status root entries bytes")
FAILED = 4  # the status of a source that a point has nothing of


class Point:
    """A COMMIT, or a PARTIAL, which has the same fields."""

    def __init__(self, c):
        self.id, self.machine = c.take(16), c.take(16)
        _, previous, previous_hash = c.take(16), c.take(8), c.take(32)
        self.started, self.ended, _ = c.i64(), c.i64(), c.uvarint(0, 3)
        self.host, _ = c.text(), c.text()
        tags = [(c.text().encode(), c.text())[0] for _ in range(c.uvarint(0, 64))]
        self.runs, self.sources, ids = c.list(32), [], set()
        for _ in range(c.uvarint(1, 4096)):
            source_id, path, status, root = c.take(16), c.blob(1, 65535), c.uint(1), c.take(32)
            _, _, snapshot = c.take(8), c.text(), c.uint(1)  # base, file system
            entries, _, size = c.uvarint(), c.uvarint(), c.uvarint()
            right = hashlib.sha256(b"tharsis/0/source" + self.machine + path).digest()[:16]
            if source_id != right or not 1 <= status <= FAILED or snapshot > 4:
                raise c.bad("a source's field is not allowed")
            if (status == FAILED) != (root == ZERO_ID):
                raise c.bad("a source's field is not allowed")
            ids.add(source_id)
            self.sources.append(Source(path, status, root, entries, size))
        for _ in range(9):  # statistics
            c.uvarint()
        if sorted(set(tags)) != tags or len(ids) < len(self.sources):
            raise c.bad("tags are out of order, or a source is repeated")
        if (previous == b"\xff" * 8) != (previous_hash == ZERO_ID):
            raise c.bad("the COMMIT before it has half a name")
        self.forgotten = self.held = self.purged = False


class Log:
    """The replay of all entries: what the vault is, as far as a reader needs to know."""

    def __init__(self, folder, keys, report, admin_seed=None):
        """admin_seed is for salvage: it tells who the admin is where GENESIS is lost."""
        self.folder, self.keys, self.report = folder, keys, report
        self.salvage = admin_seed is not None
        self.admin = self.config_hash = None
        if self.salvage:
            self.admin = Ed25519PrivateKey.from_private_bytes(admin_seed).public_key()
            self.admin = self.admin.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.machines = {}  # ID: public key
        self.points = {}  # ID: Point, in the order of the log
        self.runs, self.dead_runs = {}, set()  # the runs to read; those that can't be added any more
        self.slots = {}  # ID: hash
        self.head, previous = 0, ZERO_ID
        while True:
            try:
                found = self.next_entry(previous)
                if found is None:
                    break
                data, entry = found
                self.apply(entry)
                self.head, previous = self.head + 1, hashlib.sha256(data).digest()
            except Damaged as e:
                behind = self.behind() if self.salvage else None
                if behind is None:
                    raise
                report.lost(f"{e}; what entries {self.head} to {behind - 1} say is lost")
                self.head, previous = behind, None
        self.head_hash = previous
        if self.salvage and not (self.points or self.runs):
            raise Damaged("the log has nothing that opens")

    def behind(self):
        """The number of the next entry that may be there; None if there is none."""
        numbers = [int(n, 16) for n in self.folder.list("log", 16)]
        numbers += [int(n, 16) * 256 + i for n in self.folder.list("bundle", 16) for i in range(256)]
        # The end is behind the last.
        return min((n for n in numbers + [n + 1 for n in numbers] if self.head < n < 1 << 64), default=None)

    def next_entry(self, previous):
        """Entry self.head and its object, from log/ or else from its bundle; None behind the end."""
        name, trouble = f"log/{self.head:016x}", None
        for read in (self.from_log, self.from_bundle, self.from_log):  # again: it may have appeared meanwhile
            try:
                data = read(name)
                entry = self.open_entry(name, data, previous)
            except Missing as e:
                trouble = trouble or e
            except Damaged as e:
                trouble = e
            else:
                if trouble:
                    self.report.damage(f"{trouble}; another copy is whole")
                return data, entry
        # Nothing there is the end, unless something lies behind. To list a folder is right for a local vault.
        logs, bundles = self.folder.list("log", 16), self.folder.list("bundle", 16)
        behind = [int(n, 16) for n in logs[-1:]] + [int(n, 16) * 256 for n in bundles[-1:]]
        if not isinstance(trouble, Missing) or self.head == 0 or max(behind, default=0) > self.head:
            raise trouble
        return None

    def from_log(self, name):
        return self.folder.read(name, MAX_ENTRY)

    def from_bundle(self, _):
        n, index = divmod(self.head, 256)
        data = self.folder.read(f"bundle/{n:016x}", 6 + 256 * (4 + MAX_ENTRY))
        check_header(data, 7, f"bundle/{n:016x}")
        c = Fields(data, f"bundle/{n:016x}")
        c.take(6)
        objects = [c.take(c.uint(4)) for _ in range(256)]
        c.end()
        return objects[index]

    def open_entry(self, name, data, previous):
        seq = struct.pack("<Q", self.head)
        key, commitment = self.keys.of_object(6, seq)
        check_sealed(data, 6, commitment, name)
        c = Fields(open_box(key, data[40:], b"tharsis/0/log" + self.keys.vault_id + seq, name), name)
        e = Entry(c.uint(8), c.take(32), c.uint(1), c.i64(), c.take(16), c.take(32), c.take(c.uint(4)))
        signed, signature = c.data[: c.at], c.take(64)
        c.end()
        if e.seq != self.head or previous not in (None, e.previous) or len(e.body) > MIB:
            raise c.bad("does not continue the entry before it")
        try:
            signed = b"tharsis/0/log-entry" + self.keys.vault_id + signed
            Ed25519PublicKey.from_public_bytes(e.writer).verify(signature, signed)
        except (InvalidSignature, ValueError):
            raise c.bad("its signature is wrong") from None
        return e

    def apply(self, e):
        """Decodes the body of an entry, and takes its effect if the writer may have it."""
        c = Fields(e.body, f"log/{e.seq:016x}")
        admin = e.writer == self.admin
        member = e.writer in self.machines.values()
        if e.type == GENESIS:
            config_hash, key, _, slots = c.take(32), c.take(32), c.uvarint(14, 180), take_slots(c)
            if e.seq == 0 and e.writer == key:
                self.config_hash, self.admin, self.slots = config_hash, key, slots
        elif e.type == MACHINE:
            machine, key, _, _, _ = c.take(16), c.take(32), c.text(), c.text(), c.uvarint(0, 1)
            if admin:
                self.machines[machine] = key
        elif e.type in (COMMIT, PARTIAL):
            point = Point(c)
            if self.salvage:
                self.machines.setdefault(point.machine, e.writer)
            if self.machines.get(point.machine) == e.writer and not (e.type == COMMIT and point.id in self.points):
                self.add_runs(point.runs)
                if e.type == COMMIT:
                    self.points[point.id] = point
        elif e.type in (FORGET, UNFORGET, HOLD, UNHOLD, PURGE):
            named = [self.points[i] for i in c.list(16) if i in self.points]
            if e.type in (FORGET, HOLD):
                c.text()
            own = member and e.type != PURGE and all(self.machines[p.machine] == e.writer for p in named)
            for point in named if admin or own else ():
                change_point(point, e.type)
        elif e.type in (INDEX, REPACK):
            adds, others = c.list(32), c.list(32)
            if e.type == INDEX and (admin or member):
                self.end_runs(others)
            if admin or (e.type == INDEX and member):
                self.add_runs(adds)
        elif e.type in (CONDEMN, SWEPT):
            _, runs = c.list(32), c.list(32)
            if admin and e.type == SWEPT:
                self.end_runs(runs)
            elif admin:
                self.dead_runs.update(runs)  # it is read all the same until it is superseded or swept
        elif e.type == KEYCHANGE:
            added, removed = take_slots(c), c.list(16)
            slots = {i: h for i, h in self.slots.items() if i not in removed} | added
            if admin and 1 <= len(slots) <= 16:
                self.slots = slots
        elif e.type == QUARANTINE:
            c.list(32), c.text()  # a reader tries those packs all the same
        elif e.type == NOTED:
            c.list(8)
        elif e.type == SETTINGS:
            c.uvarint(14, 180)  # of who purges
        else:
            raise c.bad(f"has the unknown type {e.type}")
        c.end()
        if not self.admin:
            raise c.bad("is no GENESIS under its own admin key")

    def add_runs(self, ids):
        self.runs.update((run, True) for run in ids if run not in self.dead_runs)

    def end_runs(self, ids):
        self.dead_runs.update(ids)
        for run in ids:
            self.runs.pop(run, None)

    def all_points(self):
        return [p for p in self.points.values() if not p.purged]

    def find_point(self, text):
        if text == "latest":
            found = [p for p in self.all_points() if not p.forgotten][-1:]
        else:
            found = [p for p in self.all_points() if p.id.hex().startswith(text.lower())]
        if len(found) != 1:
            raise Failed(f"{'several points are' if found else 'no point is'} named {show(text)}", 1, "see: points")
        return found[0]


def take_slots(c):
    """Hashes of slot objects by slot ID."""
    slots = [(c.take(16), c.take(32), c.uint(1), c.i64(), c.text()) for _ in range(c.uvarint(0, 16))]
    if len({s[0] for s in slots}) < len(slots) or any(s[2] not in (1, 2) for s in slots):
        raise c.bad("a slot is repeated, or of an unknown kind")
    return {s[0]: s[1] for s in slots}


def change_point(p, kind):
    if kind == PURGE:
        p.purged = p.purged or (p.forgotten and not p.held)
    elif kind in (HOLD, UNHOLD):
        p.held = kind == HOLD
    else:
        p.forgotten = kind == FORGET and (p.forgotten or not p.held)


# ---- §7 Index runs, §6 packs ------------------------------------------------------------------


class Cache:
    """Keeps what was used last, up to a weight."""

    def __init__(self, limit, drop=lambda value: None):
        self.limit, self.drop, self.weight, self.items = limit, drop, 0, OrderedDict()

    def get(self, key):
        item = self.items.get(key)
        if item is None:
            return None
        self.items.move_to_end(key)
        return item[0]

    def put(self, key, value, weight=1):
        self.items[key] = value, weight
        self.weight += weight
        while self.weight > self.limit and len(self.items) > 1:
            value, weight = self.items.popitem(last=False)[1]
            self.weight -= weight
            self.drop(value)


def padme(length):
    """Whether a length is a Padmé size (§6.3)."""
    e = length.bit_length() - 1
    return length & ((1 << e - e.bit_length()) - 1) == 0


# A place of a chunk: a record of a pack, where in its plaintext, and the index row that says so.
Place = namedtuple("Place", "pack type size number offset stored plain codec at length run row")

# The tables of a run: struct of a row, and the number of leading fields that rows ascend by.
TABLES = {1: ("<32sBQ", 1), 2: ("<IIIIIB", 0), 3: ("<32sIII", 3)}
ROWS = 256


class Run:
    """An index run, read block by block."""

    def __init__(self, folder, keys, run_id, cache):
        self.id, self.keys, self.cache, self.name = run_id, keys, cache, f"index/{run_id.hex()}"
        self.fd, self.size = folder.open(self.name, MAX_RUN)
        self.key, commitment = keys.of_object(5, run_id)
        check_sealed(read_at(self.fd, 0, 40, self.name), 5, commitment, self.name)
        length = int.from_bytes(read_at(self.fd, self.size - 4, 4, self.name), "little") if self.size > 44 else 0
        if not BOX + 12 <= length <= self.size - 44:
            raise Damaged(f"{self.name}: its length is wrong")
        aad = b"tharsis/0/index-footer" + keys.vault_id + run_id + struct.pack("<Q", self.size)
        footer = open_box(self.key, read_at(self.fd, self.size - 4 - length, length, self.name), aad, self.name)
        packs, records, chunks = struct.unpack_from("<III", footer)
        self.fences = array("Q", footer[12 : len(footer) // 8 * 8 + 4])
        if sys.byteorder == "little":
            self.fences.byteswap()  # the first 8 bytes of an ID, so that they compare as its bytes do
        self.rows, self.start, at = {1: packs, 2: records, 3: chunks}, {}, 40
        for table, rows in self.rows.items():
            self.start[table] = at
            at += rows * struct.calcsize(TABLES[table][0]) + self.blocks(table) * BOX
        if not 1 <= packs <= records <= chunks <= 1 << 28 or at + length + 4 != self.size:
            raise Damaged(f"{self.name}: its length is wrong")
        if len(footer) != 12 + 8 * self.blocks(3) or any(a > b for a, b in zip(self.fences, self.fences[1:])):
            raise Damaged(f"{self.name}: its fences are wrong")

    def blocks(self, table):
        return (self.rows[table] + ROWS - 1) // ROWS

    def block(self, table, number):
        """The rows of a block as tuples."""
        rows = self.cache.get((self.id, table, number))
        if rows is not None:
            return rows
        form, what = TABLES[table][0], f"{self.name}: block {number} of table {table}"
        width, count = struct.calcsize(form), min(ROWS, self.rows[table] - number * ROWS)
        box = read_at(self.fd, self.start[table] + number * (ROWS * width + BOX), count * width + BOX, what)
        aad = b"tharsis/0/index-block" + self.keys.vault_id + self.id + struct.pack("<BIH", table, number, count)
        plain = open_box(self.key, box, aad, what)
        if len(plain) != count * width:
            raise Damaged(f"{what}: its length is wrong")
        rows = list(struct.iter_unpack(form, plain))
        if not self.ordered(table, rows) or table == 3 and int.from_bytes(rows[0][0][:8], "big") != self.fences[number]:
            raise Damaged(f"{what}: its rows are out of order")
        self.cache.put((self.id, table, number), rows)
        return rows

    def ordered(self, table, rows):
        """Whether rows ascend; of records also that their boxes do not overlap."""
        pairs = zip(rows, rows[1:])
        if table == 2:
            return all(a[0] < b[0] or a[0] == b[0] and a[2] + a[3] <= b[2] for a, b in pairs)
        n = TABLES[table][1]
        return all(a[:n] < b[:n] for a, b in pairs)

    def find(self, chunk_id):
        """Yields the places of a chunk."""
        prefix = int.from_bytes(chunk_id[:8], "big")
        number = max(bisect.bisect_left(self.fences, prefix) - 1, 0)
        while number < len(self.fences) and self.fences[number] <= prefix:
            rows = self.block(3, number)
            i = bisect.bisect_left(rows, (chunk_id,))
            while i < len(rows) and rows[i][0] == chunk_id:
                yield self.place(number * ROWS + i, *rows[i][1:])
                i += 1
            number += 1

    def place(self, row, record, at, length):
        what = f"{self.name}: chunk row {row}"
        if record >= self.rows[2]:
            raise Damaged(f"{what}: points outside of the table")
        pack_row, number, offset, stored, plain, codec = self.block(2, record // ROWS)[record % ROWS]
        if pack_row >= self.rows[1]:
            raise Damaged(f"{what}: points outside of the table")
        pack, kind, size = self.block(1, pack_row // ROWS)[pack_row % ROWS]
        place = Place(pack, kind, size, number, offset, stored, plain, codec, at, length, self, row)
        check_place(place, what)
        return place

    def check(self):
        """Reads all blocks, and compares also the last row of each with the first of the next."""
        for table in TABLES:
            last = []
            for number in range(self.blocks(table)):
                rows = self.block(table, number)
                if not self.ordered(table, last + rows[:1]):
                    raise Damaged(f"{self.name}: block {number} of table {table}: its rows are out of order")
                last = rows[-1:]


def check_place(p, what):
    """The limits of §6 and §13, and that all lies inside of what holds it."""
    if p.type not in (3, 4) or p.size > MAX_PACK or not padme(p.size):
        raise Damaged(f"{what}: its pack's type or size is not allowed")
    if p.offset < 40 or p.offset + p.stored + BOX + 4 > p.size or not BOX < p.stored <= MAX_STORED:
        raise Damaged(f"{what}: its record does not lie in its pack")
    if p.codec not in (1, 2) or not 1 <= p.plain <= MAX_CHUNK or (p.codec == 1 and p.stored != p.plain + BOX):
        raise Damaged(f"{what}: its record's codec or length is not allowed")
    if p.length < 1 or p.at + p.length > p.plain:
        raise Damaged(f"{what}: does not lie in its record")


ZSTD = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK)


def unzstd(data, length, what):
    """Decodes exactly one frame of a known length (§6.1). All is checked before memory is taken."""
    try:
        frame, at = zstandard.get_frame_parameters(data), zstandard.frame_header_size(data)
        if data[:4] != b"\x28\xb5\x2f\xfd" or frame.dict_id or frame.has_checksum:
            raise Damaged(f"{what}: its frame is not allowed")
        if frame.content_size != length or frame.window_size > MAX_CHUNK:
            raise Damaged(f"{what}: its frame has another length, or needs too much memory")
        last = 0
        while not last and at < len(data):  # the library passes over what follows a frame: find the last block
            block = int.from_bytes(data[at : at + 3], "little")
            last, at = block & 1, at + 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        if not last or at != len(data):
            raise Damaged(f"{what}: its frame is cut off, or bytes follow it")
        plain = ZSTD.decompress(data, max_output_size=length)
    except zstandard.ZstdError as e:
        raise Damaged(f"{what}: {e}") from None
    if len(plain) != length:
        raise Damaged(f"{what}: its frame has another length than it says")
    return plain


Pack = namedtuple("Pack", "name fd key")


class Store:
    """Finds and reads chunks and pages by their IDs."""

    def __init__(self, folder, keys, run_ids, report):
        self.folder, self.keys, self.report = folder, keys, report
        self.packs = Cache(OPEN_FILES, lambda pack: os.close(pack.fd))
        self.records = Cache(RECORD_CACHE)
        blocks = Cache(BLOCK_CACHE)
        self.scanned = None  # places by chunk ID from the packs' own directories, once they were needed
        self.runs = []
        for run_id in run_ids:
            try:
                self.runs.append(Run(folder, keys, run_id, blocks))
            except Damaged as e:
                report.damage(str(e))

    def chunk(self, chunk_id, length=None, is_page=False):
        """The bytes of a chunk or page, from the first place where it is whole."""
        trouble = None
        for place in self.places(chunk_id):
            try:
                return self.read_place(place, chunk_id, length, is_page)
            except Damaged as e:
                self.report.damage(str(e))
                trouble = e
        raise trouble or Missing(f"{'page' if is_page else 'chunk'} {chunk_id.hex()[:16]} is nowhere in the vault")

    def places(self, chunk_id):
        for run in self.runs:
            try:
                yield from run.find(chunk_id)
            except Damaged as e:
                self.report.damage(str(e))
        if self.scanned is None:
            say("looking into the directories of all packs, since the index leads to no whole copy of something")
            self.scanned = {}
            for pack in self.all_packs():
                try:
                    self.scanned.update(self.directory(bytes.fromhex(pack)))
                except Damaged as e:
                    self.report.damage(str(e))
        if chunk_id in self.scanned:
            yield self.scanned[chunk_id]

    def read_place(self, place, chunk_id, length, is_page):
        plain = self.record(place)
        data = memoryview(plain)[place.at : place.at + place.length]
        what = f"{pack_name(place.pack)}: record {place.number}"
        if length is not None and place.length != length:
            raise Damaged(f"{what}: a chunk has another length than its file says")
        if hmac.digest(self.keys.page_id if is_page else self.keys.chunk_id, data, "sha256") != chunk_id:
            raise Damaged(f"{what}: a chunk is not what its ID says")
        return data

    def record(self, place):
        """The plaintext of a record."""
        plain = self.records.get((place.pack, place.offset, place.plain))
        if plain is not None:
            return plain
        pack = self.packs.get(place.pack) or self.open_pack(place)
        what = f"{pack.name}: record {place.number}"
        aad = struct.pack("<IBI", place.number, place.codec, place.plain)
        aad = b"tharsis/0/record" + self.keys.vault_id + place.pack + aad
        plain = open_box(pack.key, read_at(pack.fd, place.offset, place.stored, what), aad, what)
        if place.codec == 2:
            plain = unzstd(plain, place.plain, what)
        self.records.put((place.pack, place.offset, place.plain), plain, len(plain))
        return plain

    def open_pack(self, place):
        """Opens a pack. One whose header or length is wrong is named, but its records are read: each is sealed."""
        name = pack_name(place.pack)
        fd, size = self.folder.open(name, 2 * MAX_PACK)
        key, commitment = self.keys.of_object(place.type, place.pack)
        try:
            check_sealed(read_at(fd, 0, 40, name), place.type, commitment, name)
            if size != place.size:
                raise Damaged(f"{name}: has {size} bytes in place of {place.size}")
        except Damaged as e:
            self.report.damage(str(e))
        pack = Pack(name, fd, key)
        self.packs.put(place.pack, pack)
        return pack

    def all_packs(self):
        return [pack for two in self.folder.list("packs", 2) for pack in self.folder.list("packs/" + two, 64)]

    def directory(self, pack):
        """The places of all chunks of a pack by its own directory (§6.2)."""
        name, places = pack_name(pack), {}
        fd, size = self.folder.open(name, MAX_PACK)
        try:
            header = read_at(fd, 0, 40, name)
            kind = header[5] if header[5] in (3, 4) else 3
            key, commitment = self.keys.of_object(kind, pack)
            check_sealed(header, kind, commitment, name)
            length = int.from_bytes(read_at(fd, size - 4, 4, name), "little") if size > 44 else 0
            if not BOX < length <= min(MAX_DIRECTORY + BOX, size - 44):
                raise Damaged(f"{name}: its directory's length is wrong")
            aad = b"tharsis/0/directory" + self.keys.vault_id + pack + struct.pack("<Q", size)
            c = Fields(open_box(key, read_at(fd, size - 4 - length, length, name), aad, name), f"{name}: directory")
        finally:
            os.close(fd)
        offset, numbers, chunks = 40, set(), 0
        for _ in range(c.uvarint(1, 65536)):
            number, codec, plain, stored = c.uvarint(0, 2**32 - 1), c.uint(1), c.uvarint(), c.uvarint()
            at = 0
            for _ in range(c.uvarint(1, 65536)):
                chunk_id, chunk_length = c.id(), c.uvarint()
                place = Place(pack, kind, size, number, offset, stored, plain, codec, at, chunk_length, None, chunks)
                check_place(place, c.what)
                places[chunk_id] = place
                at, chunks = at + chunk_length, chunks + 1
            if at != plain or number in numbers or chunks > 131072:
                raise c.bad("a record's number or lengths are wrong")
            numbers.add(number)
            offset += stored
        if offset + length + 4 != size or c.data[c.at :].strip(b"\0"):
            raise c.bad("its records do not fill the pack, or its padding is not zero")
        return places


def pack_name(pack):
    return f"packs/{pack.hex()[:2]}/{pack.hex()}"


# ---- §8 Manifests, §9 block tables ------------------------------------------------------------

FOLDER, FILE, SYMLINK, BLOCK_DEVICE, CHARACTER_DEVICE, FIFO = range(1, 7)
HAS_LINK, HAS_FILE_SYSTEM, HAS_ATTRIBUTES, HAS_ATTRIBUTES_CHUNK, HAS_TABLE = (1 << bit for bit in range(2, 7))
MAX_SUM = 2**64 - 1
MAX_LEVEL = 16


class Meta:
    """An entry of a manifest, without its key."""

    __slots__ = "kind mode uid gid mtime link attributes attributes_chunk size extents table target device".split()

    def __init__(self, c):
        self.kind, flags, self.mode = c.uint(1), c.uvarint(0, 127), c.uvarint(0, 0o7777)
        self.uid, self.gid = c.uvarint(0, 2**32 - 1), c.uvarint(0, 2**32 - 1)
        c.blob(0, 256), c.blob(0, 256)  # the names of user and group
        self.mtime = c.varint() * 10**9 + c.uvarint(0, 10**9 - 1)
        c.varint(), c.uvarint(0, 10**9 - 1), c.uvarint()  # ctime and inode
        self.link = c.uint(8) if flags & HAS_LINK else 0
        if flags & HAS_FILE_SYSTEM:
            c.blob(1, 256)
        self.attributes = c.blob(1, 128) if flags & HAS_ATTRIBUTES else b""
        self.attributes_chunk = (c.uvarint(129, MAX_CHUNK), c.id()) if flags & HAS_ATTRIBUTES_CHUNK else None
        self.size, self.extents, self.table = 0, (), None
        if self.kind == FILE:
            self.size = c.uvarint(0, 2**63 - 1)
            if flags & HAS_TABLE:
                self.table = c.id()
            else:
                self.extents = [take_extent(c) for _ in range(c.uvarint(0, 16))]
                check_holes(self.extents, c.what)
                if sum(length for length, _ in self.extents) != self.size:
                    raise c.bad("a file's extents are not as long as the file")
        elif self.kind == SYMLINK:
            self.target = c.blob(1, 65535)
        elif self.kind in (BLOCK_DEVICE, CHARACTER_DEVICE):
            self.device = c.uvarint(0, 2**32 - 1), c.uvarint(0, 2**32 - 1)
        elif self.kind not in (FOLDER, FIFO):
            raise c.bad("an entry has an unknown kind")
        if (
            (flags & HAS_LINK and not self.link)
            or (flags & HAS_FILE_SYSTEM and self.kind != FOLDER)
            or (flags & HAS_TABLE and self.kind != FILE)
            or (self.attributes and self.attributes_chunk)
        ):
            raise c.bad("an entry's flag is not allowed")


def take_extent(c):
    """Length and chunk ID, which is None for a hole."""
    code = c.uvarint(2)
    if code & 1:
        return code >> 1, None
    if code >> 1 > MAX_CHUNK:
        raise c.bad("a chunk is too long")
    return code >> 1, c.id()


def check_holes(extents, what):
    if any(a[1] is None and b[1] is None for a, b in zip(extents, extents[1:])):
        raise Damaged(f"{what}: a hole follows a hole")


def take_attributes(data):
    """The names and values of an attribute set (§8.5)."""
    c = Fields(data, "attributes")
    found = [(c.blob(1, 255), c.blob(0, 65536)) for _ in range(c.uvarint(1, 16384))]
    c.end()
    if any(a[0] >= b[0] for a, b in zip(found, found[1:])):
        raise c.bad("are out of order")
    return found


def check_key(key, what):
    for name in key.split(b"\0") if key else ():
        if name in (b"", b".", b"..") or b"/" in name or len(name) > 1024:
            raise Damaged(f"{what}: holds the name {show(name)}, which is not allowed")
    if len(key) > 65535:
        raise Damaged(f"{what}: a key is too long")


def take_page(data, what):
    """Level and rows of a manifest page: (key, Meta), or (key, child's ID, entries, bytes)."""
    c = Fields(data, what)
    kind, level, count = c.uint(1), c.uint(1), c.uvarint(0, 65536)
    if (kind, level == 0) not in ((1, True), (2, False)) or level > MAX_LEVEL or (level and not count):
        raise c.bad("its kind or level is not allowed")
    rows, key = [], b""
    for i in range(count):
        shared, suffix = c.uvarint(0, len(key)), c.blob(0, 65535)
        before, key = key, key[:shared] + suffix
        if i and (key <= before or before[: shared + 1] == key[: shared + 1]):
            raise c.bad("its keys are out of order, or not written as short as possible")
        check_key(key, what)
        rows.append((key, Meta(c)) if not level else (key, c.id(), c.uvarint(1), c.uvarint()))
    c.end()
    return level, rows


class Tree:
    """Walks the manifest of a source, and the block tables of its files.

    ranges are the pairs of keys between which entries are wanted. done, where not None, remembers
    the pages below which all was whole, to pass over them when they come again.
    """

    def __init__(self, store, report, source, ranges=((b"", None),), done=None):
        self.store, self.report, self.source, self.ranges, self.done = store, report, source, ranges, done
        self.holes = False  # a page could not be read: entries may lack their folder

    def wanted(self, low, high):
        return any((high is None or start < high) and (stop is None or low < stop) for start, stop in self.ranges)

    def page(self, page_id):
        data = self.store.chunk(page_id, is_page=True)
        if len(data) > MAX_PAGE:
            raise Damaged(f"page {page_id.hex()[:16]}: is too long")
        return data

    def entries(self):
        """Yields (key, Meta) of what is wanted, in order. What can't be read is named and passed over."""
        yield from self.walk(self.source.root, None, b"", None, self.source.entries, self.source.bytes)

    def walk(self, page_id, level, first, end, entries, size):
        """The entries below a page, of which the page above says its level, its first key, the key
        that all are below, and the number of entries and their bytes."""
        if self.done is not None and page_id in self.done:
            return
        before = self.report.count
        try:
            own_level, rows = self.checked_page(page_id, level, first, end, entries, size)
        except Damaged as e:
            self.holes = True
            at = " from " + show(first.replace(b"\0", b"/")) + " on" if first else ""
            self.report.lost(f"{show(self.source.path)}{at}: {entries} entries are lost: {e}")
            return
        for i, row in enumerate(rows):
            if own_level == 0:
                if self.wanted(row[0], row[0] + b"\0"):
                    yield row
                continue
            key, child, child_entries, child_size = row
            high = rows[i + 1][0] if i + 1 < len(rows) else end
            if self.wanted(key, high):
                yield from self.walk(child, own_level - 1, key, high, child_entries, child_size)
        if self.done is not None and self.report.count == before:
            self.done.add(page_id)

    def checked_page(self, page_id, level, first, end, entries, size):
        what = f"page {page_id.hex()[:16]}"
        own_level, rows = take_page(self.page(page_id), what)
        if own_level == 0:
            counts = len(rows), min(sum(meta.size for _, meta in rows), MAX_SUM)
        else:
            counts = sum(row[2] for row in rows), min(sum(row[3] for row in rows), MAX_SUM)
        if counts != (entries, size):
            trouble = f"{what}: has {counts} entries and bytes in place of {entries, size}"
            if level is not None:
                raise Damaged(trouble)
            # A point that tells wrong numbers of itself is no reason to restore nothing.
            self.report.lost(f"{show(self.source.path)}: {trouble}")
        misplaced = rows and (rows[0][0] != first or end is not None and rows[-1][0] >= end)
        if misplaced or level not in (None, own_level):
            raise Damaged(f"{what}: is not the page that the one above it names")
        return own_level, rows

    def extents(self, meta):
        """Yields (length, chunk ID or None for a hole) of a file."""
        if not meta.table:
            yield from meta.extents
            return
        count, last = 0, (0, b"")
        for extent in self.table(meta.table, None, meta.size):
            check_holes((last, extent), "block table")
            count, last = count + 1, extent
            yield extent
        if count <= 16:
            raise Damaged("block table: has too few extents")

    def table(self, page_id, level, size):
        c = Fields(self.page(page_id), f"block table {page_id.hex()[:16]}")
        kind, own_level, count = c.uint(1), c.uint(1), c.uvarint(1, 1024)
        if (kind, own_level == 0) not in ((3, True), (4, False)) or own_level > MAX_LEVEL:
            raise c.bad("its kind or level is not allowed")
        if level not in (None, own_level):
            raise c.bad("its level is not allowed")
        rows = [(c.id(), c.uvarint(1))[::-1] if own_level else take_extent(c) for _ in range(count)]
        c.end()
        if sum(row[0] for row in rows) != size:
            raise c.bad("does not have the length that its file or the page above says")
        for row in rows:
            if own_level:
                yield from self.table(row[1], own_level - 1, row[0])
            else:
                yield row

    def attributes(self, meta):
        if meta.attributes:
            return take_attributes(meta.attributes)
        if meta.attributes_chunk:
            length, chunk_id = meta.attributes_chunk
            return take_attributes(self.store.chunk(chunk_id, length))
        return ()


# ---- §12 Restoring below a target -------------------------------------------------------------

NO_SYMLINK = os.O_NOFOLLOW | os.O_CLOEXEC
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)  # what follows would fail as well


class Target:
    """The folder that all is written below. Each folder is opened from the one above it, never by a path, so
    that no symlink is followed. One folder is the current one, and leave is called when it is left."""

    def __init__(self, path, leave):
        os.makedirs(path, exist_ok=True)
        self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.listdir(self.root):
            raise Failed(f"{show(path)} is not empty", 1, "restore into a folder that is empty or not there yet")
        self.leave = leave
        self.names, self.notes, self.fds = [], [], []  # the current folder, with what leave is told

    def current(self):
        """A descriptor of the current folder, to be used until it is left."""
        if not self.fds:
            return self.root
        if self.fds[-1] is None:  # closed, as folders below were open: open the deepest ones again, from the root down
            fd = self.root
            for depth, name in enumerate(self.names):
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | NO_SYMLINK, dir_fd=fd)
                self.keep(depth, fd)
        return self.fds[-1]

    def keep(self, depth, fd):
        self.fds[depth] = fd
        if depth >= OPEN_FILES and self.fds[depth - OPEN_FILES] is not None:
            os.close(self.fds[depth - OPEN_FILES])
            self.fds[depth - OPEN_FILES] = None

    def enter(self, name, note=None):
        """Makes a folder in the current one, or takes one that is there, and goes into it."""
        parent = self.current()
        try:
            os.mkdir(name, 0o700 if note else 0o755, dir_fd=parent)
        except FileExistsError:
            pass
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | NO_SYMLINK, dir_fd=parent)
        if note:
            os.fchmod(fd, 0o700)  # until it is left; another source may have set its mode already
        self.names.append(name)
        self.notes.append(note)
        self.fds.append(None)
        self.keep(len(self.fds) - 1, fd)

    def back_to(self, names):
        """Leaves folders until the current one is names or above it."""
        common = 0
        while common < min(len(names), len(self.names)) and names[common] == self.names[common]:
            common += 1
        while len(self.names) > common:
            if self.notes[-1]:
                self.leave(self.current(), self.notes[-1], self.names)
            fd = self.fds.pop()
            self.names.pop(), self.notes.pop()
            if fd is not None:
                os.close(fd)

    def reach(self, names):
        """A new descriptor of any folder below the root."""
        fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.root)
        for name in names:
            above = fd
            try:
                fd = os.open(name, os.O_PATH | os.O_DIRECTORY | NO_SYMLINK, dir_fd=above)
            finally:
                os.close(above)
        return fd


class Restore:
    """Restores entries below a target; what can't be restored is named, and the rest goes on."""

    def __init__(self, store, report, path):
        self.store, self.report = store, report
        self.target = Target(path, self.finish_folder)
        self.links = {}  # link key: names of the first file of its group
        self.root_note = None
        self.entries = self.bytes = 0

    def source(self, tree, base, overlaps):
        """Restores a source, whose path has the names base."""
        self.tree, self.links, self.overlaps = tree, {}, overlaps
        for key, meta in tree.entries():
            names = base + (key.split(b"\0") if key else [])
            try:
                self.place(names, len(base), meta)
                self.entries, self.bytes = self.entries + 1, self.bytes + meta.size
            except (Damaged, OSError, ValueError, OverflowError) as e:
                self.failed(names, e)
        self.target.back_to([])

    def close(self):
        if self.root_note:
            self.finish_folder(self.target.root, self.root_note, [])

    def failed(self, names, e, what=""):
        if isinstance(e, OSError) and e.errno in FATAL:
            raise Failed(f"{path_of(names)}: {e.strerror}") from None
        self.report.lost(f"{path_of(names)}: {what}{e.strerror if isinstance(e, OSError) else e}")

    def place(self, names, base, meta):
        """Makes one entry; base is the number of names that are above the source's root."""
        if not names:
            if meta.kind != FOLDER:
                raise Damaged("the root is not a folder")
            self.root_note = (meta, self.tree)
            return
        target = self.target
        target.back_to(names[:-1])
        while len(target.names) < len(names) - 1:
            # Folders above the source are made plainly, and so are those whose own entry could not be read.
            if len(target.names) >= base and not self.tree.holes:
                raise Damaged("its folder is not there")
            target.enter(names[len(target.names)])
        name = names[-1]
        if meta.kind == FOLDER:
            target.enter(name, (meta, self.tree))
            return
        try:
            if not (meta.link in self.links and self.link(self.links[meta.link], names)):
                self.make(target.current(), names, meta)
        except FileExistsError:
            if not self.overlaps:  # else it is there from the other source
                raise
        if meta.link:
            self.links[meta.link] = b"\0".join(names)

    def link(self, first, names):
        """Makes a hard link to a file that was restored before; tells whether that went well."""
        first = first.split(b"\0")
        try:
            fd = self.target.reach(first[:-1])
            try:
                os.link(first[-1], names[-1], src_dir_fd=fd, dst_dir_fd=self.target.current(), follow_symlinks=False)
            finally:
                os.close(fd)
        except FileExistsError:
            raise
        except OSError as e:
            self.failed(names, e, f"is a file of its own, not a link of {path_of(first)}: ")
            return False
        return True

    def make(self, folder, names, meta):
        name = names[-1]
        if meta.kind == FILE:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_SYMLINK, 0o600, dir_fd=folder)
            try:
                try:
                    self.fill(fd, meta)
                except BaseException:
                    os.unlink(name, dir_fd=folder)
                    raise
                self.set_metadata(fd, meta, self.tree, names)
            finally:
                os.close(fd)
        elif meta.kind == SYMLINK:
            os.symlink(meta.target, name, dir_fd=folder)
            self.set_metadata(name, meta, self.tree, names, folder)
        else:
            kind = {FIFO: stat.S_IFIFO, BLOCK_DEVICE: stat.S_IFBLK, CHARACTER_DEVICE: stat.S_IFCHR}[meta.kind]
            os.mknod(name, kind | 0o600, 0 if meta.kind == FIFO else os.makedev(*meta.device), dir_fd=folder)
            fd = os.open(name, os.O_PATH | NO_SYMLINK, dir_fd=folder)
            try:  # the path leads to what the descriptor names, whatever the name became
                self.set_metadata(f"/proc/self/fd/{fd}", meta, self.tree, names)
            finally:
                os.close(fd)

    def fill(self, fd, meta):
        """Writes the content of a file, and leaves its holes."""
        at = 0
        for length, chunk_id in self.tree.extents(meta):
            if chunk_id:
                data = self.store.chunk(chunk_id, length)
                while data:
                    written = os.pwrite(fd, data, at)
                    data, at = data[written:], at + written
            else:
                at += length
        os.ftruncate(fd, at)

    def finish_folder(self, fd, note, names):
        self.set_metadata(fd, *note, names)

    def set_metadata(self, at, meta, tree, names, folder=None):
        """Sets all but the content. at is a descriptor, a path that can't lead elsewhere, or the
        name of a symlink in folder."""
        symlink = folder is not None
        how = {"dir_fd": folder, "follow_symlinks": False} if symlink else {}
        now = os.stat(at, **how)
        if (now.st_uid, now.st_gid) != (meta.uid, meta.gid):
            self.attempt(names, "owner", self.set_owner, at, meta, how)
            now = os.stat(at, **how)
        try:
            attributes = tree.attributes(meta)
        except Damaged as e:
            self.failed(names, e, "attributes: ")
            attributes = ()
        for name, value in attributes:
            self.attempt(names, f"attribute {show(name)}", set_attribute, at, folder, name, value)
        mode = meta.mode  # without its owner, a program must not run as somebody else
        if now.st_uid != meta.uid:
            mode &= ~stat.S_ISUID
        if now.st_gid != meta.gid:
            mode &= ~stat.S_ISGID
        if not symlink:
            self.attempt(names, "mode", os.chmod, at, mode)
        self.attempt(names, "time", os.utime, at, ns=(meta.mtime, meta.mtime), **how)

    def attempt(self, names, what, action, *args, **how):
        try:
            action(*args, **how)
        except (OSError, ValueError, OverflowError) as e:
            self.failed(names, e, what + ": ")

    def set_owner(self, at, meta, how):
        """Who is not root may set one of its own groups at most, which is no failure."""
        try:
            os.chown(at, meta.uid, meta.gid, **how)
        except PermissionError:
            if os.geteuid() == 0:
                raise
            try:
                os.chown(at, -1, meta.gid, **how)
            except PermissionError:
                pass


def set_attribute(at, folder, name, value):
    if folder is None:
        os.setxattr(at, name, value)
    else:  # a symlink: there is no call that takes a folder's descriptor
        os.setxattr(os.fsencode(f"/proc/self/fd/{folder}/") + at, name, value, follow_symlinks=False)


def path_of(names):
    return show(b"/" + b"/".join(names))


def names_of(path):
    """The names in an absolute path."""
    names = path[1:].split(b"/") if path != b"/" else []
    if path[:1] != b"/" or any(n in (b"", b".", b"..") or b"\0" in n for n in names):
        raise Damaged("is not an absolute path")
    return names


def ranges_for(base, wanted):
    """The ranges of keys of a source that wanted paths ask for: all below them, and the folders above."""
    ranges = []
    for names in wanted:
        if base[: len(names)] == names:
            return [(b"", None)]
        if names[: len(base)] == base:
            names = names[len(base) :]
            above = [b"\0".join(names[:i]) for i in range(len(names))]
            key = b"\0".join(names)
            ranges += [(a, a + b"\0") for a in above] + [(key, key + b"\1")]
    return ranges


# ---- Commands ---------------------------------------------------------------------------------


def command_points(log, store, report, args):
    for p in log.all_points():
        when = datetime.fromtimestamp(p.ended // 10**9, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
        state = "deleted" if p.forgotten else "held" if p.held else "-"
        sources = " ".join(show(s.path) + ("(failed)" if s.status == FAILED else "") for s in p.sources)
        print(f"{p.id.hex()}  {when}  {show(p.host)}  {state}  {sources}")


def command_restore(log, store, report, args):
    point = log.find_point(args.point)
    try:
        wanted = [names_of(os.path.normpath(os.fsencode(p))) for p in args.paths] or [[]]
    except Damaged as e:
        raise Failed(f"a PATH {e}") from None
    jobs = []
    for source in point.sources:
        try:
            base = names_of(source.path)
            ranges = ranges_for(base, wanted)
            if not ranges:
                continue
            if source.status == FAILED:
                raise Damaged("failed in this point, which has nothing of it")
            jobs.append((base, Tree(store, report, source, ranges)))
        except Damaged as e:
            report.lost(f"{show(source.path)}: {e}")
    for names in wanted if args.paths else ():
        if not any(is_there(tree, base, names) for base, tree in jobs):
            raise Failed(f"the point has no {path_of(names)}")
    restore = Restore(store, report, args.target)
    # Of sources within each other the inner one comes first, so that the outer one's folders are finished last.
    jobs.sort(key=lambda job: -len(job[0]))
    for base, tree in jobs:
        overlaps = any(tree is not t and (b[: len(base)] == base or base[: len(b)] == b) for b, t in jobs)
        restore.source(tree, base, overlaps)
    restore.close()
    done = f"restored {restore.entries} entries, {restore.bytes} bytes, of point {point.id.hex()}"
    print(f"{done}; {report.count} damaged or missing")


def is_there(tree, base, names):
    """Whether a source has something at a path; true as well where a damaged page hides the answer."""
    if base[: len(names)] == names:
        return True
    if names[: len(base)] != base:
        return False
    key = b"\0".join(names[len(base) :])
    look = Tree(tree.store, Report(quiet=True), tree.source, [(key, key + b"\0")])
    return any(True for _ in look.entries()) or look.holes


def command_check(log, store, report, args):
    points = [log.find_point(p) for p in args.points] or log.all_points()
    for run in store.runs:
        try:
            run.check()
        except Damaged as e:
            report.damage(str(e))
    good = {run.id: bytearray(run.rows[3] // 8 + 1) for run in store.runs}  # a bit for each chunk that was read

    def check_chunk(chunk_id, length):
        place = next(store.places(chunk_id), None)
        bits = good.get(place.run.id) if place and place.run else None
        if bits and place.length == length and bits[place.row >> 3] >> (place.row & 7) & 1:
            return
        store.chunk(chunk_id, length)
        if bits:
            bits[place.row >> 3] |= 1 << (place.row & 7)

    done = set()
    for point in points:
        before = report.count
        for source in point.sources:
            if source.status == FAILED:
                continue
            tree = Tree(store, report, source, done=done)
            for key, meta in tree.entries():
                try:
                    if meta.attributes or meta.attributes_chunk:
                        tree.attributes(meta)
                    for length, chunk_id in tree.extents(meta):
                        if chunk_id:
                            check_chunk(chunk_id, length)
                except Damaged as e:
                    report.lost(f"{point.id.hex()[:12]} {show(source.path + b'/' + key.replace(bytes(1), b'/'))}: {e}")
        print(f"{point.id.hex()}  {'whole' if report.count == before else 'damaged'}")
    print(f"head of the log: {log.head - 1} {(log.head_hash or ZERO_ID).hex()}")


def read_secret(args):
    """The passphrase or recovery key."""
    path = args.recovery_key_file or args.passphrase_file
    if path:
        with open(path, "rb") as f:
            raw = f.read(64 * KIB)
    elif "THARSIS_PASSPHRASE" in os.environ:
        raw = os.environb[b"THARSIS_PASSPHRASE"]
    elif sys.stdin.isatty():
        return getpass.getpass("passphrase or recovery key: ")
    else:
        raise Failed("no passphrase", 1, "set THARSIS_PASSPHRASE, or use --passphrase-file or --recovery-key-file")
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failed("the passphrase or recovery key is not UTF-8") from None
    if args.recovery_key_file and recovery_key(text) is None:
        raise Failed(f"{show(path)} holds no recovery key", 12)
    return text


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Failed(message, 1, f"{self.prog} --help")


def parse(argv):
    options = Parser(add_help=False, allow_abbrev=False)
    options.add_argument("--passphrase-file", metavar="F", help="read the passphrase from this file")
    options.add_argument("--recovery-key-file", metavar="F", help="read the recovery key from this file")
    options.add_argument("--salvage", action="store_true", help="go on behind what is damaged in config and the log")
    found, rest = options.parse_known_args(argv)  # they may stand anywhere
    parser = Parser(
        prog="rescue.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options], argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    parser.add_argument("vault", metavar="VAULT", help="the folder of the vault")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    commands.add_parser("points", help="list the points").set_defaults(run=command_points)
    check = commands.add_parser("check", help="read all that the points need")
    check.set_defaults(run=command_check)
    check.add_argument("points", nargs="*", metavar="POINT", help='"latest", or the first digits of an ID; none: all')
    restore = commands.add_parser("restore", help="restore a point, or some paths of it")
    restore.set_defaults(run=command_restore)
    restore.add_argument("point", metavar="POINT", help='"latest", or the first digits of an ID')
    restore.add_argument("target", metavar="TARGET", help="a folder that is empty or not there yet")
    restore.add_argument("paths", nargs="*", metavar="PATH", help="an absolute path in the point; none: all")
    args = parser.parse_args(rest)
    args.passphrase_file, args.recovery_key_file = found.passphrase_file, found.recovery_key_file
    args.salvage = found.salvage
    return args


def main(argv):
    try:
        args = parse(argv)
        report = Report(strict=args.command == "check")
        folder = Folder(args.vault)
        config = find_config(folder, report, args.salvage)  # before a secret is asked for
        log = open_vault(folder, config, read_secret(args), report, args.salvage)
        args.run(log, Store(folder, log.keys, [] if args.command == "points" else log.runs, report), report, args)
        sys.stdout.flush()
        return 3 if report.count else 0
    except Failed as e:
        say(f"error: {e}" + (f"\nhint: {e.hint}" if e.hint else ""))
        return e.code
    except (Damaged, OSError, MemoryError, argon2.exceptions.Argon2Error) as e:
        say(f"error: {e}")
        if isinstance(e, Damaged) and not args.salvage:
            say("hint: --salvage goes on behind damage of config and the log")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
