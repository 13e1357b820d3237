"""`python -m serving`: see `serving.main`."""

from serving.main import main

raise SystemExit(main())
