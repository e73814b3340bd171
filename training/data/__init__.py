"""Data sets: images and labels as whole tensors, their splits, and random augmentation.

    dataset.py   a data set, its splits and their digests
    content.py   an image's place among others, by its pixels
    datasets.py  the named data sets, verified and downloaded
    folder/      a user's own pictures, one folder per class
    augment.py   random augmentation of a batch

Not here: how a picture becomes an image, which service/pictures/ decides for the service too.
"""
