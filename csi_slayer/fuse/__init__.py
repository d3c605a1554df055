"""The native engine: speaks the kernel's FUSE protocol on /dev/fuse, knows a file system only as
:class:`csi_slayer.vfs.operations.Operations`."""
