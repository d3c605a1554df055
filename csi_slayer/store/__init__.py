"""Objects: S3 buckets and local directories behind one interface.

``base`` is the interface, ``options`` what a store is opened with, ``open.open_store`` the way to
one. Nothing heavy is imported before a store of its kind is opened.
"""
