"""The calls of other packages, answered by this one: a script changes its imports and nothing else.

`pytorch_grad_cam` has that package's classes and targets, `captum` a layer attribution, `quantus` an explanation
function. None of them needs the other package.
"""
