"""What can go wrong in the running system, and its status over HTTP: the only module that knows status codes.

ServiceError
├── InvalidSetting               a setting that cannot be used
├── DatabaseError                the database cannot be used
│   ├── DatabaseUnavailable      it does not answer
│   └── DatabaseVersionError     it has another version than this Akin needs
├── CatalogueError
│   ├── InvalidImportSource      what is to be imported cannot be read at all
│   ├── ProductNotFound
│   ├── ImageNotFound            no image of the catalogue has the id
│   ├── InvalidLabels            rows of labels of which none can be used, or a file of them that cannot be read
│   ├── InvalidArchive           an archive that is damaged, or would write where it may not
│   ├── EmptyCatalogue           nothing to build an index from
│   └── SampleDirectoryNotEmpty
├── MediaError                   a stored image is missing or damaged, or the store does not answer
├── MediaUnavailable             the same, as a client is told
├── ImageNotShown              no product on show has the image
├── ReleaseError
│   ├── NoActiveRelease
│   ├── ReleaseNotFound
│   ├── InvalidRelease           a release whose files are damaged or do not fit together
│   ├── NoPreviousRelease        there is nothing to roll back to
│   ├── ReleaseInUse             a release that is served, or is needed by an operation
│   ├── BuilderBusy              another process writes a release
│   └── ActivationConflict       somebody else activated a release in between
├── OperationError
│   ├── OperationNotFound
│   ├── OperationActive          one of its kind is under way already
│   ├── OperationEnded           it has ended, and cannot be cancelled any more
│   ├── IdempotencyKeyReused     the same key came with another request
│   ├── InvalidOperation         a request for work that cannot be done as asked for
│   └── TrainingFailed           the training process ended without a checkpoint
├── EvaluationNotFound
├── NotComparable                two evaluations on different sets of queries
├── AccessError
│   ├── MissingKey               a route that needs a key was asked without one
│   ├── InvalidKey               the key is not known here
│   ├── ExpiredKey
│   ├── RevokedKey
│   ├── InsufficientScope        the key is good, but not for this
│   ├── KeyInAddress             a key in the query string, where logs keep it
│   └── KeysUnavailable          keys cannot be checked at present
├── KeyNotFound                  no key has this name or id
├── KeyNameTaken
├── LastAdminKey                 without it nobody could use the admin routes
├── InvalidKeyRequest            a key that cannot be made so
├── Overloaded                   as many searches as the process may have are in progress
├── NotReady                     the server is not to be given requests, and why
├── StorageFull                  a disk has no space left
│   └── DatabaseFull             that of the database, which is DatabaseUnavailable for what is to be written
├── RequestError                 a request that cannot be understood
│   ├── BodyTooLarge
│   ├── BodyTooSlow
│   ├── ClientLeft               the client went away before it had its answer
│   ├── EmptyBody
│   ├── UnsupportedContentType
│   ├── InvalidForm
│   ├── InvalidBase64
│   └── InvalidParameter
├── PortInUse
└── DemoError                    the demo cannot run, or found too little
"""

from collections.abc import Mapping

from embedding.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat


class ServiceError(Exception):
    """Base of every error of this room; its message is safe to show to a client."""


class InvalidSetting(ServiceError):
    """A setting has a value that cannot be used."""


class DatabaseError(ServiceError):
    """The database cannot be used."""


class DatabaseUnavailable(DatabaseError):
    """The database does not answer; `reason` says more, and is for logs and terminals: it names host and user."""

    def __init__(self, reason: str) -> None:
        super().__init__("the database cannot be used at present; ask again in a moment (the log has the reason)")
        self.reason = reason


class DatabaseVersionError(DatabaseError):
    """The database has another version than is needed, and it is not to be changed by that."""


class CatalogueError(ServiceError):
    """Something is wrong with the catalogue."""


class InvalidImportSource(CatalogueError):
    """A path to import from is missing or has no layout that Akin knows."""


class ProductNotFound(CatalogueError):
    """No product has this id."""


class EmptyCatalogue(CatalogueError):
    """The catalogue has no image to index."""


class SampleDirectoryNotEmpty(CatalogueError):
    """The sample catalogue would be written over something else."""


class ImageNotFound(CatalogueError):
    """No image of the catalogue has this id."""


class InvalidLabels(CatalogueError):
    """Labels of which none can be used, or a file of them that cannot be read at all."""


class InvalidArchive(CatalogueError):
    """An archive is damaged, too large when unpacked, or holds paths that lead out of it."""


class MediaError(ServiceError):
    """A stored image is missing or damaged, or the store does not answer."""


class MediaUnavailable(ServiceError):
    """An image on show cannot be read; where it should be is nothing for clients."""


class ImageNotShown(ServiceError):
    """No product on show has the image."""


class ReleaseError(ServiceError):
    """Something is wrong with a release."""


class NoActiveRelease(ReleaseError):
    """Nothing is served yet."""


class ReleaseNotFound(ReleaseError):
    """No release has this id."""


class InvalidRelease(ReleaseError):
    """A release's files are damaged or do not fit together."""


class ActivationConflict(ReleaseError):
    """Another release was activated in between."""


class NoPreviousRelease(ReleaseError):
    """There is no release to roll back to."""


class ReleaseInUse(ReleaseError):
    """A release is served, or an operation needs it."""


class BuilderBusy(ReleaseError):
    """Another process writes a release at this moment."""


class OperationError(ServiceError):
    """Something is wrong with an operation."""


class OperationNotFound(OperationError):
    """No operation has this id."""


class OperationActive(OperationError):
    """An operation of this kind is under way; `operation_id` names it."""

    def __init__(self, message: str, operation_id: str) -> None:
        super().__init__(message)
        self.operation_id = operation_id

    @property
    def members(self) -> dict[str, object]:
        """What the problem document says besides."""
        return {"operation_id": self.operation_id}


class OperationEnded(OperationError):
    """An operation has ended already."""


class IdempotencyKeyReused(OperationError):
    """A key that stands for one request came with another."""


class InvalidOperation(OperationError):
    """Work is asked for that cannot be done so."""


class TrainingFailed(OperationError):
    """The training process ended without a checkpoint."""


class EvaluationNotFound(ServiceError):
    """No evaluation has this id."""


class NotComparable(ServiceError):
    """Two evaluations are of different sets of queries."""


class AccessError(ServiceError):
    """A route may not be used by who asks."""


class MissingKey(AccessError):
    """A key is needed and none came."""


class InvalidKey(AccessError):
    """The key that came is not known."""


class ExpiredKey(AccessError):
    """The time of a key is over."""


class RevokedKey(AccessError):
    """A key was taken back."""


class InsufficientScope(AccessError):
    """A key may not be used for this."""


class KeyInAddress(AccessError):
    """A key stands in the address, which logs and histories keep."""


class KeysUnavailable(AccessError):
    """Keys cannot be checked at present."""


class KeyNotFound(ServiceError):
    """No key has this name or id."""


class KeyNameTaken(ServiceError):
    """Another key has the name."""


class LastAdminKey(ServiceError):
    """A key is the only one to the admin routes."""


class InvalidKeyRequest(ServiceError):
    """A key is asked for that cannot be made so."""


class Overloaded(ServiceError):
    """As many searches as a process may have are in progress."""


class NotReady(ServiceError):
    """The server is not to be given requests; `members` says what is not ready."""

    def __init__(self, message: str, checks: Mapping[str, object]) -> None:
        super().__init__(message)
        self.checks = checks

    @property
    def members(self) -> dict[str, object]:
        """What the problem document says besides."""
        return {"checks": self.checks}


class StorageFull(ServiceError):
    """A disk has no space left for what is to be written."""


class DatabaseFull(StorageFull, DatabaseUnavailable):
    """The disk of the database has no space left; what is in it can be read."""

    def __init__(self, reason: str) -> None:
        # The other base would put its own words in place of these.
        Exception.__init__(self, "the disk of the database is full, and nothing was written")
        self.reason = reason


class RequestError(ServiceError):
    """A request cannot be understood."""


class BodyTooLarge(RequestError):
    """The body of a request exceeds the limit."""


class BodyTooSlow(RequestError):
    """The body of a request does not arrive."""


class ClientLeft(RequestError):
    """The client went away before it had its answer."""


class EmptyBody(RequestError):
    """A request that needs an image has no body."""


class UnsupportedContentType(RequestError):
    """A body has a content type that the route does not read."""


class InvalidForm(RequestError):
    """A multipart form cannot be read or lacks its image."""


class InvalidBase64(RequestError):
    """A JSON body whose image is not base64."""


class InvalidParameter(RequestError):
    """A parameter has a value outside its range."""


class PortInUse(ServiceError):
    """Another process listens on the port."""


class DemoError(ServiceError):
    """The demo cannot run, or its search found too little."""


def reason_of(error: Exception) -> str:
    """Return what is wrong as logs and terminals may have it: of the database more than a client is told."""
    return error.reason if isinstance(error, DatabaseUnavailable) else str(error)


# Error -> HTTP status and the stable code that clients may switch on.
PROBLEMS: dict[type[Exception], tuple[int, str]] = {
    BodyTooLarge: (413, "body-too-large"),
    EmptyBody: (422, "empty-body"),
    UnsupportedContentType: (415, "unsupported-content-type"),
    InvalidForm: (422, "invalid-form"),
    InvalidBase64: (422, "invalid-base64"),
    InvalidParameter: (422, "invalid-request"),
    UnsupportedImageFormat: (415, "unsupported-image-format"),
    ImageTooLarge: (413, "image-too-large"),
    InvalidImage: (422, "invalid-image"),
    NoActiveRelease: (503, "no-active-release"),
    ImageNotShown: (404, "media-not-found"),
    MediaUnavailable: (503, "media-unavailable"),
    DatabaseUnavailable: (503, "database-unavailable"),
    MissingKey: (401, "missing-key"),
    InvalidKey: (401, "invalid-key"),
    ExpiredKey: (401, "expired-key"),
    RevokedKey: (401, "revoked-key"),
    InsufficientScope: (403, "insufficient-scope"),
    KeyInAddress: (400, "key-in-address"),
    KeysUnavailable: (503, "keys-unavailable"),
    KeyNotFound: (404, "key-not-found"),
    KeyNameTaken: (409, "key-name-taken"),
    LastAdminKey: (409, "last-admin-key"),
    InvalidKeyRequest: (422, "invalid-key-request"),
    Overloaded: (503, "overloaded"),
    NotReady: (503, "not-ready"),
    StorageFull: (507, "storage-full"),
    BodyTooSlow: (408, "body-too-slow"),
    ClientLeft: (499, "client-left"),
    ProductNotFound: (404, "product-not-found"),
    ImageNotFound: (404, "image-not-found"),
    InvalidLabels: (422, "invalid-labels"),
    InvalidArchive: (422, "invalid-archive"),
    InvalidImportSource: (422, "invalid-import-source"),
    EmptyCatalogue: (409, "empty-catalogue"),
    ReleaseNotFound: (404, "release-not-found"),
    InvalidRelease: (409, "invalid-release"),
    NoPreviousRelease: (409, "no-previous-release"),
    ReleaseInUse: (409, "release-in-use"),
    BuilderBusy: (409, "builder-busy"),
    ActivationConflict: (409, "activation-conflict"),
    OperationNotFound: (404, "operation-not-found"),
    OperationActive: (409, "operation-active"),
    OperationEnded: (409, "operation-ended"),
    IdempotencyKeyReused: (422, "idempotency-key-reused"),
    InvalidOperation: (422, "invalid-operation"),
    EvaluationNotFound: (404, "evaluation-not-found"),
    NotComparable: (409, "not-comparable"),
}
INVALID_REQUEST = (422, "invalid-request")
INTERNAL_ERROR = (500, "internal-error")
