"""SynCamMaster (arXiv 2412.07760): synchronized generation of several views, by view attention added to a frozen base."""
