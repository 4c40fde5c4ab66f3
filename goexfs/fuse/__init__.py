"""The FUSE face of an overlay: requests of the kernel in, calls of `goexfs.overlay` out.  No policy and no SQL."""
