"""Files and folders that operating systems and programs leave beside images, and that nobody means to send."""

# In lower case: file systems of macOS and Windows ignore case.
_JUNK = frozenset(
    {
        # macOS; the name of a folder's icon ends in a carriage return, which SMB shares store as U+F00D.
        ".ds_store", "__macosx", "icon\r", "icon\uf00d", ".appledouble", ".appledb", ".appledesktop", ".lsoverride",
        ".spotlight-v100", ".trashes", ".trash", ".fseventsd", ".temporaryitems", ".documentrevisions-v100",
        ".volumeicon.icns", ".com.apple.timemachine.donotpresent", ".localized", "network trash folder",
        # Windows
        "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin",
        "system volume information",
        # network storage and Linux
        "@eadir", "#recycle", ".@__thumb", ".directory", ".thumbnails", "lost+found",
        # programs
        ".git", ".gitignore", ".gitattributes", ".gitkeep", ".svn", ".hg", "picasa.ini", ".picasa.ini", ".bridgesort",
        ".bridgecache", ".bridgecachet", "__pycache__", ".ipynb_checkpoints", ".dropbox", ".dropbox.attr",
    }
)  # fmt: skip
# Resource forks of macOS; lock files of Excel and LibreOffice; files deleted while open; the trash of Linux.
_JUNK_STARTS = ("._", "~$", ".~lock.", ".nfs0", ".fuse_hidden", ".trash-")
# Extended attributes on Synology shares; Windows' mark of downloaded files.
_JUNK_ENDS = ("@synoeastream", "@synoresource", ":zone.identifier")


def is_junk(name: str) -> bool:
    """Return whether a file or folder of this name is junk; `name` is one part of a path.

    A folder that is junk is left out with all that is in it.
    """
    name = name.lower()
    return name in _JUNK or name.startswith(_JUNK_STARTS) or name.endswith(_JUNK_ENDS)
