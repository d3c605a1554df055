"""Where the code bounds its queues, caches, retries and waits: the list for the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from csi_slayer.config import format_size
from csi_slayer.config.units import format_duration

_BYTES, _SECONDS, _COUNT = "bytes", "seconds", "count"

_LIMITS = (
    ("largest request of the kernel", "fuse.init", "LARGEST", _BYTES),
    ("readahead and asynchronous requests waiting at once", "fuse.init", "MAX_BACKGROUND", _COUNT),
    ("large writes with the worker at once", "fuse.channel", "POOL", _COUNT),
    ("requests taken per turn of the event loop", "fuse.channel", "_BATCH", _COUNT),
    ("wait for the kernel's INIT when mounting", "fuse.session", "_INIT_SECONDS", _SECONDS),
    ("wait for cancelled requests when a worker ends", "fuse.dispatch", "_CANCEL_SECONDS",
     _SECONDS),
    ("results kept for requests that the kernel may resend", "catalog.changes", "COMPLETED_KEPT",
     _COUNT),
    ("paths of directories remembered", "catalog.reads", "PATHS_KEPT", _COUNT),
    ("inodes remembered, and names", "catalog.rows", "ROWS_KEPT", _COUNT),
    ("names remembered that do not exist", "catalog.rows", "ABSENT_KEPT", _COUNT),
    ("keys whose upload is due remembered", "catalog.pendings", "ROWS_KEPT", _COUNT),
    ("empty files of which is remembered, until they are closed, when the store took them",
     "catalog.outcomes", "EMPTIES_KEPT", _COUNT),
    ("catalog's log from which on it is folded back", "catalog.schema", "WAL_SMALL", _BYTES),
    ("catalog's log from which on its file is begun anew, or cut if less is written then",
     "catalog.schema", "WAL_LARGE", _BYTES),
    ("name of a file", "vfs.names", "NAME_MAX", _BYTES),
    ("target of a symbolic link", "vfs.nameops", "SYMLINK_MAX", _BYTES),
    ("user metadata of an object, names and values", "store.s3.copies", "_MOST_METADATA", _BYTES),
    ("extended attributes of a file, encoded", "content.metadata", "XATTR_LIMIT", _BYTES),
    ("both of a symbolic link, where what is not plain ASCII takes three bytes",
     "content.metadata", "TEXT_LIMIT", _BYTES),
    ("names asked for in one listing request", "vfs.refresh", "PAGE", _COUNT),
    ("directory listings under way at once", "vfs.refresh", "LISTINGS", _COUNT),
    ("of them ahead of who walks a tree", "vfs.ahead", "AT_ONCE", _COUNT),
    ("small files fetched at once in the directories that a walk comes to next", "vfs.openops",
     "BEYOND", _COUNT),
    ("what is fetched ahead at once is one part of the cache of so many", "content.small",
     "AHEAD_PART", _COUNT),
    ("listings begun for one who reads a directory of which none has ended", "vfs.dirops",
     "LISTINGS_BEGUN", _COUNT),
    ("new directories of a later listing that are asked for singly", "vfs.refresh", "DOUBTED",
     _COUNT),
    ("objects whose metadata is read ahead at once", "vfs.unread", "AHEAD", _COUNT),
    ("the first change of an object waits for its metadata", "vfs.unread", "KNOWN_WAIT", _SECONDS),
    ("objects per directory remembered that a directory of the same name hides", "vfs.refresh",
     "SHADOWED_KEPT", _COUNT),
    ("files kept ready that a zero-upcall volume reads", "vfs.unopened", "UNOPENED_KEPT", _COUNT),
    ("until nobody has read one for so long", "vfs.unopened", "IDLE", _SECONDS),
    ("or, if together they are larger than an eighth of the cache, for so long", "vfs.unopened",
     "PAUSED", _SECONDS),
    ("or, if others took the name from it, for so long", "vfs.unopened", "LOST_IDLE", _SECONDS),
    ("directories, and files of a zero-upcall volume, that others took the name from and that are"
     " kept for who uses them", "vfs.kept", "NAMELESS_KEPT", _COUNT),
    ("after an open that came later than the removal of the file, files that are removed from the"
     " directory can still be opened, for so long", "vfs.late", "WATCHED", _SECONDS),
    ("such directories", "vfs.late", "DIRECTORIES", _COUNT),
    ("each such file can be opened for so long", "vfs.late", "MOMENT", _SECONDS),
    ("inodes remembered that others changed, for the next open; beyond that the next open of each"
     " inode drops its pages", "vfs.stale", "KEPT", _COUNT),
    ("inode numbers of which is known whether the kernel has seen them, whether its pages were"
     " dropped and, without upcalls, whether they were read", "vfs.marks", "MOST", _COUNT),
    ("directories of a zero-upcall volume whose names the kernel keeps", "vfs.shown", "KEPT",
     _COUNT),
    ("free quota from which on the kernel may write by itself", "vfs.openops", "QUOTA_SLACK",
     _BYTES),
    ("block: unit of presence and checksums in the cache", "cache.layout", "BLOCK", _BYTES),
    ("small file: fetched whole at its first open", "cache.layout", "SMALL", _BYTES),
    ("small files fetched ahead at once", "content.small", "PREFETCHES", _COUNT),
    ("small files that wait to be fetched ahead", "content.small", "QUEUED", _COUNT),
    ("small files fetched lately that are kept open", "content.small", "READY", _COUNT),
    ("tries, a millisecond apart, to take a cached file for writing while other workers do",
     "content.clean", "TURNS", _COUNT),
    ("copied by copy_file_range after its program was killed", "content.staged",
     "COPIED_AT_ONCE", _BYTES),
    ("files fetched ahead of a directory walk", "scheduling.scan", "MAXIMUM", _COUNT),
    ("directories watched for walks", "scheduling.scan", "WATCHED", _COUNT),
    ("readahead window of one file", "scheduling.window", "MAXIMUM", _BYTES),
    ("one ranged request", "content.segment_reader", "CHUNK", _BYTES),
    ("pieces of fetched objects in memory, of half a MiB", "cache.fresh", "MOST", _COUNT),
    ("large file that was uploaded waits for room in the cache", "cache.adopt", "ADOPT_WAIT",
     _SECONDS),
    ("cache: pause between looks of the governor", "cache.governor", "PERIOD", _SECONDS),
    ("cache: free inodes of the disk below which cached files are removed, at most",
     "cache.ledger", "FREE_FILES", _COUNT),
    ("cache: segments that the governor compares", "cache.governor", "KNOWN", _COUNT),
    ("cache: pause between full counts", "cache.governor", "SWEEP_PERIOD", _SECONDS),
    ("versions of an object that come while their metadata is asked for", "vfs.unread", "VERSIONS",
     _COUNT),
    ("traces that were not sent yet when a worker ends", "observability.tracing", "CLOSE_SECONDS",
     _SECONDS),
    ("segments of one file that follow it to another name", "content.following", "SPANS", _COUNT),
    ("cache: pause between counts of segments alone", "cache.governor", "NAMES_PERIOD", _SECONDS),
    ("object sent from memory with one PUT", "content.upload", "SINGLE", _BYTES),
    ("parts of one file sent at once", "content.upload", "PARTS_AT_ONCE", _COUNT),
    ("parts of one upload; larger files get larger parts", "content.upload", "MAX_PARTS", _COUNT),
    ("pause between looks at growing files", "content.growth", "PERIOD", _SECONDS),
    ("pause between looks at files that are mapped although closed", "content.mapped", "PAUSE",
     _SECONDS),
    ("such files looked at each time", "content.mapped", "AT_ONCE", _COUNT),
    ("closed files that a full disk keeps from being let go of, or forgotten if they are unlinked, "
     "for another try", "content.again", "LEFT", _COUNT),
    ("pause between such tries", "content.again", "PAUSE", _SECONDS),
    ("failures of one such try after which the others wait for the next", "content.again",
     "FAILURES", _COUNT),
    ("policy writeback uploads when nothing was changed for", "content.rest",
     "WRITEBACK_REST", _SECONDS),
    ("or when a file waits for", "content.rest", "WRITEBACK_REST_MAX", _SECONDS),
    ("longest pause before a failed upload is tried again; it is never given up",
     "content.retries", "BACKOFF_MAX", _SECONDS),
    ("looks at a key whose names keep moving, per attempt", "content.reconcile", "LOOKS", _COUNT),
    ("looks at the names of one rename that others change", "vfs.nameops", "RENAME_LOOKS", _COUNT),
    ("longest pause that a server may ask for (Retry-After)", "store.retry",
     "LONGEST_RETRY_AFTER", _SECONDS),
    ("keys in one batch delete", "store.s3.writes", "_DELETE_BATCH", _COUNT),
    ("idle connection is closed after", "store.s3.pool", "_LONGEST_IDLE", _SECONDS),
    ("single server-side copy; larger objects are copied in parts", "store.s3.copies",
     "LARGEST_SINGLE_COPY", _BYTES),
    ("credentials are renewed before their end", "store.s3.credentials", "RENEW_AHEAD", _SECONDS),
    ("first pause before a dead worker is started again", "node.lifecycle", "BACKOFF_FIRST",
     _SECONDS),
    ("longest such pause", "node.lifecycle", "BACKOFF_MAX", _SECONDS),
    ("a killed worker is waited for of which a thread waits in the kernel", "node.remains",
     "SETTLE", _SECONDS),
    ("calls that wait for a program's write at once", "content.patient", "THREADS", _COUNT),
    ("clients of the control socket at once", "worker.control", "CLIENTS", _COUNT),
    ("request on the control socket", "worker.control", "LINE_LIMIT", _BYTES),
    ("time a control client has to say what it wants", "worker.control", "REQUEST_TIMEOUT",
     _SECONDS),
    ("time a control client has to take an answer", "worker.control", "SEND_TIMEOUT", _SECONDS),
    ("files fetched at once by `csi-slayer warm`", "worker.warm", "FILES_AT_ONCE", _COUNT),
    ("`csi-slayer mount` waits for the volume", "cli.mount", "START_TIMEOUT", _SECONDS),
    ("an unmounted volume's worker goes on uploading", "worker.mount", "DRAIN", _SECONDS),
    ("failing keys that `csi-slayer status` shows", "worker.status", "ERRORS_SHOWN", _COUNT),
    ("who has an older answer waits for a newer one of a store that may be away", "vfs.patience",
     "PATIENCE", _SECONDS),
    ("reads of one place that the kernel lets ask one by one fail with the first for",
     "content.segment_reader", "TOGETHER", _SECONDS),
    ("a reader whose version is gone waits for a change of our own", "content.content",
     "OWN_CHANGE", _SECONDS),
    ("a file is read past a cache that failed, before it is tried again", "content.clean",
     "PAST_CACHE", _SECONDS),
    ("a start waits for the store to say which uploads had succeeded", "content.recovery",
     "RECOGNISE", _SECONDS),
    ("log lines that wait to be written; more are lost, and counted",
     "observability.log_writer", "_MOST_LINES", _COUNT),
    ("log line", "observability.log_writer", "_LONGEST_LINE", _BYTES),
    ("connections to the metrics endpoint at once", "observability.serve", "_MOST_CONNECTIONS",
     _COUNT),
    ("one of them may take", "observability.serve", "_TIMEOUT", _SECONDS),
    ("configuration file", "config.loader", "_LARGEST_FILE", _BYTES),
    ("series of one metric", "observability.metrics", "_MOST_SERIES", _COUNT),
)  # fmt: skip

# Of the driver's processes in a cluster.
_DRIVER_LIMITS = (
    ("calls of kubelet and sidecars at once", "csi.server", "MOST_CALLS", _COUNT),
    ("calls that wait for one volume", "csi.locks", "MOST_WAITING", _COUNT),
    ("a call waits for its turn", "csi.locks", "LONGEST_WAIT", _SECONDS),
    ("parameters or attributes of a call, together", "csi.fields", "LARGEST_MAP", _BYTES),
    ("secrets and tokens of a call, together", "csi.fields", "LARGEST_SECRETS", _BYTES),
    ("calls under way may end when a process is told to", "csi.server", "GRACE", _SECONDS),
    ("what remains then may be closed", "csi.processes", "END_TIMEOUT", _SECONDS),
    ("result of a readiness check is remembered", "csi.identity", "REMEMBERED", _SECONDS),
    ("copies at once at one S3 service, and deletions", "volumes.turns", "AT_SERVICE", _COUNT),
    ("the same at all services but the driver's", "volumes.turns", "ELSEWHERE", _COUNT),
    ("copies and deletions known at a time", "volumes.jobs", "MOST", _COUNT),
    ("controllers agree on who copies, renewed at a third", "volumes.lease", "LEASE", _SECONDS),
    ("stores that stay open", "volumes.stores", "MOST_STORES", _COUNT),
    ("volume or snapshot id", "volumes.ids", "LONGEST_ID", _BYTES),
    ("volumes that a keeper holds", "node.keeper", "ENTRIES", _COUNT),
    ("connections to a keeper", "node.keeper", "CLIENTS", _COUNT),
    ("a keeper may take to answer", "node.keeping", "ANSWER_TIMEOUT", _SECONDS),
    ("a start waits for a keeper that does not", "node.keeping", "START_TIMEOUT", _SECONDS),
    ("a process may take to fork a worker", "node.launcher", "FORK_TIMEOUT", _SECONDS),
    ("such processes tried for one worker", "node.launcher", "ATTEMPTS", _COUNT),
    ("a worker may take to try new credentials or options", "node.running", "UPDATE_TIMEOUT",
     _SECONDS),
    ("a worker may take to end", "node.running", "END_TIMEOUT", _SECONDS),
    ("pause until uploads of an unmounted volume are tried again", "node.running", "DRAIN_AGAIN",
     _SECONDS),
    ("Kubernetes events that wait to be sent", "node.events", "WAITING", _COUNT),
    ("attempts to send one; it is dropped then", "node.events", "ATTEMPTS", _COUNT),
    ("pause between them", "node.events", "PAUSE", _SECONDS),
    ("the same event of the same object is not sent again within", "node.events", "AGAIN",
     _SECONDS),
    ("different events of the same reason and object within that time", "node.events", "DIFFERENT",
     _COUNT),
    ("the end of an inline volume waits for the deletion of its content", "csi.emptying",
     "AT_ONCE", _SECONDS),
    ("longest pause before that is tried again; it is never given up", "csi.emptying", "AGAIN_MAX",
     _SECONDS),
    ("a node service waits for the end of its predecessor", "node.sole", "PREDECESSOR_TIMEOUT",
     _SECONDS),
    ("a keeper waits for the end of its predecessor", "node.keeper", "PREDECESSOR_TIMEOUT",
     _SECONDS),
    ("a scrape of all volumes of a node", "node.service", "COLLECT_TIMEOUT", _SECONDS),
)  # fmt: skip


def driver_limits() -> Iterator[tuple[str, str]]:
    """The same of the driver's processes in a cluster."""
    return _values(_DRIVER_LIMITS)


def limits() -> Iterator[tuple[str, str]]:
    """What is bounded, and the bound as the code has it."""
    return _values(_LIMITS)


def _values(listed: tuple[tuple[str, str, str, str], ...]) -> Iterator[tuple[str, str]]:
    for text, module, name, unit in listed:
        value = getattr(import_module(f"csi_slayer.{module}"), name)
        if unit == _BYTES:
            size = format_size(value)
            yield text, f"{size} bytes" if size.isdigit() else size
        elif unit == _SECONDS:
            yield text, format_duration(value)
        else:
            yield text, f"{value:,}"
