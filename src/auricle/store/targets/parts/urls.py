"""URLs of targets, as they are shown."""

import re


def without_password(url: str) -> str:
    """
    >>> without_password("sftp://me:secret@host/folder")
    'sftp://me@host/folder'
    """
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1@", url)
