"""`python -m gptwright` is `gptwright`."""

import sys

from gptwright.cli.main import main

sys.exit(main())
