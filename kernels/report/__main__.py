"""`python -m sdtc.kernels.report`."""

import sys

if __name__ == "__main__":
    from sdtc.kernels.report.cases import main

    sys.exit(main())
