"""The two layers as they are read: the base by descriptors, the upper as a tree, and contents of either."""
