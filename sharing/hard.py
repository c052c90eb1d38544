"""Hard parameter sharing: one encoder, whose feature maps all tasks get. Source: Caruana, "Multitask Learning", 1997."""

from sharing import Sharing


class Hard(Sharing):
    def build(self, make_encoder, tasks, beside, seed):
        return make_encoder()

    def features(self, encoder, image, tasks, cut):
        return dict.fromkeys(tasks, [cut(map) for map in encoder(image)])
