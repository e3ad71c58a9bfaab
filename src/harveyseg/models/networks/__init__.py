"""One module for each network; ``network: <module>`` in params.yaml chooses it.

A module offers ``class Params(Section)``, the network's settings, ``build(params, classes, encoder_weights) ->
Network``, and ``TAKES_ENCODER_WEIGHTS``, whether it has an encoder that can start from pretrained weights. To add a
network, add a module: nothing lists them. No module imports another one, so that an edit retrains one network only.
"""
