import sys

from dither.results._pages import main

sys.exit(main())
