"""How the demo generator is made: multi-view regression of the procedural heads.

truth      rays through fresh heads and what they see, supersampled
memory     which heads a step sees
backbone   the synthesis network for batches of different heads
rendering  a few rays of each, differentiably
model      one network for all styles, and what each style has of its own
loop       training, with checkpoints
figures    what the result is worth against the truth
sheets     pictures of both
"""
