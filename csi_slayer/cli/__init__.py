"""The command ``csi-slayer``: thin commands over the layers below, no policy of their own."""
