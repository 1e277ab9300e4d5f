"""`python -m sdtc.kernels.report`."""

import sys

from sdtc.core.errors import MissingExtraError

if __name__ == "__main__":  # worker processes import this module too
    try:
        from sdtc.kernels.report.cli import main
    except MissingExtraError as error:
        sys.exit(f"sdtc.kernels.report: error: {error}")
    sys.exit(main())
