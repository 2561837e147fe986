"""The wire format that crosses the gap between a login node and compute nodes.

A bundle is a folder of work items and, later, their results; every byte of it is proved
before it is believed. This package knows nothing of Themis, of Slurm or of databases, so a
bundle can be written, read, verified and repaired anywhere Python runs.
"""

from themis_bundles.attempts import new_attempt_id as new_attempt_id
from themis_bundles.canonical import canonical_json as canonical_json
from themis_bundles.canonical import parse_canonical as parse_canonical
from themis_bundles.canonical import replace_surrogates as replace_surrogates
from themis_bundles.canonical import sha256_hex as sha256_hex
from themis_bundles.census import Census as Census
from themis_bundles.census import Chosen as Chosen
from themis_bundles.census import chosen as chosen
from themis_bundles.census import verify as verify
from themis_bundles.errors import BundleError as BundleError
from themis_bundles.errors import BundleExistsError as BundleExistsError
from themis_bundles.errors import BundleInvalidError as BundleInvalidError
from themis_bundles.errors import BundleWriteError as BundleWriteError
from themis_bundles.errors import CanonicalError as CanonicalError
from themis_bundles.errors import RecordRefusedError as RecordRefusedError
from themis_bundles.errors import SignatureRefusedError as SignatureRefusedError
from themis_bundles.errors import SignatureToolError as SignatureToolError
from themis_bundles.manifest import GroupEntry as GroupEntry
from themis_bundles.manifest import Manifest as Manifest
from themis_bundles.pack import pack as pack
from themis_bundles.problems import Problem as Problem
from themis_bundles.reader import Bundle as Bundle
from themis_bundles.reader import Component as Component
from themis_bundles.reader import Item as Item
from themis_bundles.reader import Shard as Shard
from themis_bundles.records import Record as Record
from themis_bundles.repair import Repaired as Repaired
from themis_bundles.repair import repair as repair
from themis_bundles.results import ResultWriter as ResultWriter
from themis_bundles.results import ShardState as ShardState
from themis_bundles.results import finished as finished
from themis_bundles.results import incomplete_shards as incomplete_shards
from themis_bundles.results import shard_state as shard_state
from themis_bundles.signatures import Signature as Signature
from themis_bundles.signatures import check_signatures as check_signatures
from themis_bundles.signatures import require_signature as require_signature
from themis_bundles.signatures import sign as sign
from themis_bundles.signed_results import require_signed_results as require_signed_results
from themis_bundles.signed_results import sign_results as sign_results
from themis_bundles.unpack import Unpacked as Unpacked
from themis_bundles.unpack import unpack as unpack
from themis_bundles.writer import BundleInfo as BundleInfo
from themis_bundles.writer import BundleWriter as BundleWriter
from themis_bundles.writer import GroupSpec as GroupSpec
