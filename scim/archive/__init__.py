"""Directories given back: one provider's as LDIF, a whole tenant as an archive that can be imported elsewhere.

`ldif` writes what one upstream said. `lines` says what an archive looks like, `writing` writes one, `taking` imports
one, `remotes` carries what is known of targets.
"""

from .ldif import export_ldif
from .lines import Broken
from .taking import import_archive
from .writing import export_archive

__all__ = ["Broken", "export_archive", "export_ldif", "import_archive"]
