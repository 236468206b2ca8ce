"""Errors of the operating system, of fsspec and of the packages of the stores as `FileAccessError`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tritone.exceptions import FileAccessError, MissingExtraError
from tritone.files import PathLike


@contextmanager
def translated_errors(url: PathLike) -> Iterator[None]:
    """Turn errors of the operating system, fsspec and the stores' packages into `FileAccessError`.

    Args:
        url: of the file that the block reads or writes, for the message.
    """
    try:
        yield
    except (FileAccessError, MissingExtraError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        text = os.fspath(url)
        detail = _detail(error)
        raise FileAccessError(f"{text}: {_MESSAGES[reason]}" + f" ({detail})", url=text, reason=reason) from error


_MESSAGES: Final = {
    "missing": "does not exist",
    "access_denied": "access is denied; check the permissions",
    "unreadable": "cannot be read or written; check the disk and the file system",
    "no_bucket": "the bucket does not exist; check its name, the region and the endpoint",
    "no_credentials": "no credentials found; set the standard variables, a profile or a role of the store",
    "wrong_credentials": "the store rejects the credentials; check the key and the endpoint",
    "expired_credentials": "the credentials have expired; renew them",
    "unreachable": "the store cannot be reached; check the network and the endpoint",
    "busy": "the store is busy or has an internal error; try again later",
    "exists": "exists already and is not replaced",
    "no_space": "no space left on the device, or quota exceeded; free some space",
    "is_folder": "is a folder; expected a file",
    "invalid_url": "is not a valid path or URL",
    "other": "the store responded with an error",
}
# Codes of S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_REASON_OF_CODE: Final = {
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion", "404"), "missing"),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "InvalidObjectState", "403"), "access_denied"),
    "NoSuchBucket": "no_bucket",
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"), "wrong_credentials"),
    **dict.fromkeys(("InvalidClientTokenId", "InvalidSecurity", "AuthFailure", "401"), "wrong_credentials"),
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), "expired_credentials"
    ),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "InternalError", "OperationAborted", "429"), "busy"),
    **dict.fromkeys(("500", "502", "503", "504", "RequestTimeout", "Throttling", "ThrottlingException"), "busy"),
    **dict.fromkeys(("InvalidBucketName", "KeyTooLongError", "InvalidURI"), "invalid_url"),
    "PreconditionFailed": "exists",
    "412": "exists",
}
# Classes of botocore, google-auth and aiohttp, by name: the packages need not be installed.
_REASON_OF_CLASS: Final = {
    **dict.fromkeys(("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"), "no_credentials"),
    **dict.fromkeys(("DefaultCredentialsError", "NoRegionError", "CredentialRetrievalError"), "no_credentials"),
    **dict.fromkeys(("TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError"), "expired_credentials"),
    **dict.fromkeys(("RefreshError", "ReauthFailError"), "expired_credentials"),
    **dict.fromkeys(("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"), "unreachable"),
    **dict.fromkeys(("ConnectionClosedError", "HTTPClientError", "ResponseStreamingError"), "unreachable"),
    **dict.fromkeys(("ClientConnectionError", "ClientPayloadError", "TransportError"), "unreachable"),
    **dict.fromkeys(("FSTimeoutError", "IncompleteReadError"), "unreachable"),
    **dict.fromkeys(("ParamValidationError", "InvalidEndpointConfigurationError"), "invalid_url"),
    "ContainerError": "other",
}


def _reason(error: BaseException) -> str | None:
    """Return the `reason` of an error; None for an error of the program."""
    for each in causes(error):
        code = error_code(each)
        if code in _REASON_OF_CODE:
            return _REASON_OF_CODE[code]
        for kind in type(each).__mro__:
            if kind.__name__ in _REASON_OF_CLASS:
                return _REASON_OF_CLASS[kind.__name__]
    if isinstance(error, OSError):
        return _reason_of_os_error(error)
    if isinstance(error, ValueError):  # a null byte in a path, a malformed URL
        return "invalid_url"
    modules = {type(each).__module__.partition(".")[0] for each in causes(error)}
    return "other" if modules & {"botocore", "aiobotocore", "s3fs", "gcsfs", "google", "aiohttp", "fsspec"} else None


# In order: some of the classes are subclasses of others.
_REASON_OF_OS_ERROR: Final[tuple[tuple[type[OSError], str], ...]] = (
    (FileNotFoundError, "missing"),
    (NotADirectoryError, "missing"),
    (FileExistsError, "exists"),
    (IsADirectoryError, "is_folder"),
    (PermissionError, "access_denied"),
    (TimeoutError, "unreachable"),
    (ConnectionError, "unreachable"),
)
_REASON_OF_ERRNO: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "no_space"),
    **dict.fromkeys((errno.EBUSY, errno.EREMOTEIO, errno.EAGAIN), "busy"),
    errno.EROFS: "access_denied",
    errno.ENAMETOOLONG: "invalid_url",
}


def _reason_of_os_error(error: OSError) -> str:
    by_class = (reason for kind, reason in _REASON_OF_OS_ERROR if isinstance(error, kind))
    return next(by_class, _REASON_OF_ERRNO.get(error.errno or 0, "unreadable"))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, the deepest first: the original error of the store is more specific."""
    if error.__cause__ is not None:
        yield from causes(error.__cause__)
    yield error


def error_code(error: BaseException) -> str | None:
    """Return the error code of S3, or the HTTP status of Google Cloud Storage, if the error has one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = response.get("Error", {}).get("Code")
        return None if code is None else str(code)
    code = getattr(error, "code", None) if type(error).__module__.startswith("gcsfs") else None
    return None if code is None else str(code)


def _detail(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
    return text.splitlines()[0]
